/* ptrace(2) that always moves the whole XSTATE, for User-mode Linux before 6.13.
 *
 * What it mends.  User-mode Linux keeps the floating-point state of its processes in a buffer
 * whose size was fixed when it was compiled, and moves it with PTRACE_GETREGSET and
 * PTRACE_SETREGSET.  A processor with AMX (Intel servers since Sapphire Rapids) has some 11 KB of
 * state, more than the buffer holds.  The host gives as much of it as there is room for, but it
 * takes the whole or nothing (arch/x86/kernel/fpu/regset.c, xstateregs_set): EFAULT.  The kernel
 * then kills its first process and panics:
 *
 *     userspace - ptrace set fp regs failed, errno = 14
 *     Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b
 *
 * Linux 6.13 asks for the size at run time ("um: switch to regset API and depend on XSTATE").
 *
 * How.  This object is loaded before the C library and answers in its place.  A get hands out as
 * much as the caller has room for, as the host does.  A set fetches the whole state, lays the
 * caller's part over its first bytes and sets the whole.  What lies beyond the caller's part are
 * registers that no process of the guest was ever given; AMX's, which would be data of another
 * process there, are marked as unused.
 *
 * Everything else goes to the system call as it came.  No header is used and only the C library's
 * syscall() and errno, so that any compiler will do, Debian's tcc without libc's headers too:
 *
 *     cc -O2 -fPIC -nostdlib -shared -o ptrace-whole-xstate.so ptrace-whole-xstate.c
 */

enum {
	SYS_RT_SIGPROCMASK = 14,
	SYS_PTRACE = 101,

	PTRACE_PEEKTEXT = 1,
	PTRACE_PEEKUSER = 3,
	PTRACE_GETREGSET = 0x4204,
	PTRACE_SETREGSET = 0x4205,
	NT_X86_XSTATE = 0x202,

	SIG_BLOCK = 0,
	SIG_SETMASK = 2,

	/* Eight times what the largest processor of today has. */
	ROOM = 1 << 17,
	/* xstate_bv, the first word of the XSAVE header: which components are in use. */
	XSTATE_BV = 512,
	WORD = 8,
};

/* XTILECFG and XTILEDATA. */
#define AMX (3UL << 17)

struct iovec {
	unsigned char *base;
	unsigned long length;
};

long syscall(long number, ...);
int *__errno_location(void);

/* The whole state; the stack of a User-mode Linux kernel has no room for it. */
static unsigned char whole[ROOM];

static void copy(unsigned char *to, const unsigned char *from, unsigned long count)
{
	while (count--)
		*to++ = *from++;
}

static long set_xstate(long pid, struct iovec *caller)
{
	struct iovec state = { whole, ROOM };
	unsigned long part = caller->length;
	unsigned long *in_use = (unsigned long *)(whole + XSTATE_BV);
	long result = syscall(SYS_PTRACE, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &state);

	if (result < 0)
		return result;
	/* Words or nothing, as the host has it; it says EINVAL. */
	if (part % WORD)
		return syscall(SYS_PTRACE, PTRACE_SETREGSET, pid, NT_X86_XSTATE, caller);
	if (part > state.length)
		part = state.length;
	copy(whole, caller->base, part);
	if (state.length >= XSTATE_BV + WORD)
		*in_use &= ~AMX;
	result = syscall(SYS_PTRACE, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &state);
	if (result >= 0)
		caller->length = part;
	return result;
}

static long get_xstate(long pid, struct iovec *caller)
{
	struct iovec state = { whole, ROOM };
	unsigned long part = caller->length;
	long result;

	if (part % WORD)
		return syscall(SYS_PTRACE, PTRACE_GETREGSET, pid, NT_X86_XSTATE, caller);
	result = syscall(SYS_PTRACE, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &state);
	if (result < 0)
		return result;
	if (part > state.length)
		part = state.length;
	copy(caller->base, whole, part);
	caller->length = part;
	return result;
}

long ptrace(int request, int pid, void *address, void *data)
{
	int set = request == PTRACE_SETREGSET;
	unsigned long all = ~0UL, before;
	long result, word;

	if ((set || request == PTRACE_GETREGSET) && (long)address == NT_X86_XSTATE) {
		/* There is one buffer, and a signal may take the kernel to another process. */
		syscall(SYS_RT_SIGPROCMASK, SIG_BLOCK, &all, &before, WORD);
		result = (set ? set_xstate : get_xstate)(pid, data);
		syscall(SYS_RT_SIGPROCMASK, SIG_SETMASK, &before, 0, WORD);
		return result;
	}
	if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER)
		return syscall(SYS_PTRACE, (long)request, (long)pid, address, data);
	/* The system call stores the word where the last argument points; C's ptrace returns it. */
	result = syscall(SYS_PTRACE, (long)request, (long)pid, address, &word);
	if (result < 0)
		return result;
	*__errno_location() = 0;
	return word;
}
