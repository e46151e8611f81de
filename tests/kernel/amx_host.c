/* A host with AMX, played: what User-mode Linux gets to know of ptrace(2) on such a machine.
 *
 * Loaded before the C library, it stands where the system call is, below everything that a test
 * puts in front of it, and answers both ways there: C's ptrace() and syscall().  The XSTATE of a
 * process is WHOLE bytes long.  A get gives as many of them as there is room for; a set takes all
 * of them or fails with EFAULT (arch/x86/kernel/fpu/regset.c, xstateregs_set), and with EINVAL if
 * AMX is marked as used, which no process here has asked permission for.
 *
 * It needs no header.
 */

enum {
	SYS_PTRACE = 101,
	PTRACE_PEEKTEXT = 1,
	PTRACE_PEEKUSER = 3,
	PTRACE_GETREGSET = 0x4204,
	PTRACE_SETREGSET = 0x4205,
	NT_X86_XSTATE = 0x202,
	EFAULT = 14,
	EINVAL = 22,
	/* With AMX: 2816 bytes up to XTILECFG and 8192 of XTILEDATA. */
	WHOLE = 11008,
	XSTATE_BV = 512,
	WORD = 8,
};

#define AMX (3UL << 17)

struct iovec {
	unsigned char *base;
	unsigned long length;
};

void *dlsym(void *handle, const char *name);
int *__errno_location(void);

static unsigned char state[WHOLE];

typedef long call(long number, ...);

static call *real(void)
{
	static call *found;

	if (!found)
		found = (call *)dlsym((void *)-1L, "syscall");
	return found;
}

static long fail(int number)
{
	*__errno_location() = number;
	return -1;
}

static long regset(long request, long pid, struct iovec *caller)
{
	unsigned long *in_use = (unsigned long *)(state + XSTATE_BV);
	struct iovec own = { state, WHOLE };
	unsigned long part = caller->length < WHOLE ? caller->length : WHOLE, at;
	long result;

	if (part % WORD)
		return fail(EINVAL);
	if (request == PTRACE_SETREGSET) {
		if (part != WHOLE)
			return fail(EFAULT);
		if (*(unsigned long *)(caller->base + XSTATE_BV) & AMX)
			return fail(EINVAL);
		own = *caller;
		/* This processor takes what it has. */
		return real()(SYS_PTRACE, request, pid, NT_X86_XSTATE, &own);
	}
	for (at = 0; at < WHOLE; at++)
		state[at] = 0;
	result = real()(SYS_PTRACE, request, pid, NT_X86_XSTATE, &own);
	if (result < 0)
		return result;
	*in_use |= AMX;
	for (at = 0; at < part; at++)
		caller->base[at] = state[at];
	caller->length = part;
	return result;
}

long syscall(long number, long a, long b, long c, long d, long e, long f)
{
	if (number == SYS_PTRACE && (a == PTRACE_GETREGSET || a == PTRACE_SETREGSET)
	    && c == NT_X86_XSTATE)
		return regset(a, b, (struct iovec *)d);
	return real()(number, a, b, c, d, e, f);
}

long ptrace(int request, int pid, void *address, void *data)
{
	long word, result;

	if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER)
		return syscall(SYS_PTRACE, request, pid, (long)address, (long)data, 0, 0);
	result = syscall(SYS_PTRACE, request, pid, (long)address, (long)&word, 0, 0);
	if (result < 0)
		return result;
	*__errno_location() = 0;
	return word;
}
