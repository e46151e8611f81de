"""From source to a kernel: trees, farms, fragments, what make says; with a make of our own."""

import os
import stat
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.cli.source import EXIT_CANNOT_BE_JUDGED
from harness.errors import BuildFailed, ProvisioningError
from harness.guest.build import config, fit, kbuild, kept, modules, needs, shims, source
from harness.guest.build.fit import Module
from harness.guest.build.tree import lay_out, open_tree, users_words
from harness.scenarios.registry import choose

FILES = {
    "Makefile": "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION = -rc1\n",
    "Kbuild": "",
    "Kconfig": "",
    "scripts/Makefile": "",
    "arch/um/Makefile": "",
    "arch/um/include/asm/a.h": "",
    "drivers/md/dm-snap.c": "int snapshot;\n",
    "drivers/md/dm-exception-store.h": "struct dm_exception { struct hlist_bl_node hash_list; };",
    "drivers/block/brd.c": "",
    "include/linux/blkdev.h": "void submit_bio_noacct(void);\n",
    "Documentation/a file.rst": "",
}


def write(top, files):
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


@pytest.fixture
def tree(tmp_path):
    top = tmp_path / "my linux: tree"  # where kbuild could not work
    write(top, FILES)
    return top


def listing(top):
    """All that is in a directory, with times and contents."""
    return {
        str(path.relative_to(top)): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(top.rglob("*"))
    }


def seen(farm):
    """What kbuild sees: the files below a farm, through its links."""
    return sorted(
        str(Path(place, name).relative_to(farm))
        for place, _, names in os.walk(farm, followlinks=True)
        for name in names
    )


# -- trees ------------------------------------------------------------------------------------


def test_a_tree_says_its_version(tree):
    found = open_tree(tree)
    assert (found.version, found.path) == ("6.12.117-rc1", tree)
    assert found.name == "my-linux--tree"


@pytest.mark.parametrize(
    ("removed", "said"),
    [
        ("Kconfig", "not the top of a kernel tree: it has no Kconfig"),
        ("drivers/md/dm-snap.c", "it has no drivers/md/dm-snap.c"),
        ("arch/um/Makefile", "has no arch/um"),
    ],
)
def test_what_is_no_kernel_tree_is_refused(tree, removed, said):
    (tree / removed).unlink()
    with pytest.raises(ProvisioningError, match=said):
        open_tree(tree)


def test_no_directory_and_no_version_are_refused(tree):
    with pytest.raises(ProvisioningError, match="no such directory"):
        open_tree(tree / "nothing")
    (tree / "Makefile").write_text("all:\n")
    with pytest.raises(ProvisioningError, match="no version"):
        open_tree(tree)


# -- farms ------------------------------------------------------------------------------------


def test_kbuild_sees_a_clean_tree_through_links_of_whole_directories(tree, tmp_path):
    before = listing(tree)
    farm = tmp_path / "farm"
    assert lay_out(open_tree(tree), farm) is False
    assert seen(farm) == sorted(FILES)
    assert (farm / "drivers").readlink() == tree / "drivers"
    assert listing(tree) == before


LEFT = (
    ".config",
    ".git/config",
    "vmlinux",
    "Module.symvers",
    "include/config/auto.conf",
    "include/generated/autoconf.h",
    "arch/um/include/generated/asm/b.h",
    "drivers/md/dm-snap.o",
    "drivers/md/.dm-snap.o.cmd",
    "drivers/md/dm-snapshot.ko",
    "drivers/md/dm-snapshot.mod.c",
    "drivers/md/modules.order",
    "scripts/fixdep",
    "scripts/.fixdep.cmd",
    "scripts/kconfig/lexer.lex.c",
    "drivers/md/dm-snap.c~",
    "drivers/md/dm-snap.c.orig",
)


def test_what_a_build_in_the_tree_has_left_is_not_seen(tree, tmp_path):
    write(tree, dict.fromkeys(LEFT, "left"))
    before = listing(tree)
    farm = tmp_path / "farm"
    assert lay_out(open_tree(tree), farm) is True
    assert seen(farm) == sorted(FILES)
    assert listing(tree) == before


def test_a_farm_follows_its_tree(tree, tmp_path):
    farm = tmp_path / "farm"
    for added, removed in (
        ("drivers/md/dm-new.c", "drivers/block/brd.c"),
        ("drivers/md/dm-snap.o", "drivers/md/dm-new.c"),  # a directory becomes a real one
        ("drivers/block/brd.c", "drivers/md/dm-snap.o"),  # and a link again
    ):
        lay_out(open_tree(tree), farm)
        write(tree, {added: "text"})
        (tree / removed).unlink()
        lay_out(open_tree(tree), farm)
        sources = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
        assert seen(farm) == sorted(sources - {"drivers/md/dm-snap.o"})
    assert (farm / "drivers").is_symlink()


def test_what_is_seen_has_the_time_that_it_has_in_the_tree(tree, tmp_path):
    farm = tmp_path / "farm"
    lay_out(open_tree(tree), farm)
    os.utime(tree / "drivers/md/dm-snap.c", ns=(5, 7))
    assert (farm / "drivers/md/dm-snap.c").stat().st_mtime_ns == 7


def test_a_tree_that_cannot_be_written_will_do(tree, tmp_path):
    for path in (tree, *tree.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        lay_out(open_tree(tree), tmp_path / "farm")
        assert seen(tmp_path / "farm") == sorted(FILES)
    finally:
        for path in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def test_a_replaced_file_is_laid_over_and_the_tree_stays(tree, tmp_path):
    mine = tmp_path / "mine.c"
    mine.write_text("int mine;\n")
    before = listing(tree)
    farm = tmp_path / "farm"
    replaced = open_tree(tree, {"drivers/md/dm-snap.c": mine})
    lay_out(replaced, farm)
    assert (farm / "drivers/md/dm-snap.c").read_text() == "int mine;\n"
    assert seen(farm) == sorted(FILES)
    assert listing(tree) == before
    first = (farm / "drivers/md/dm-snap.c").stat().st_mtime_ns
    lay_out(replaced, farm)
    assert (farm / "drivers/md/dm-snap.c").stat().st_mtime_ns == first, "built anew for nothing"
    mine.write_text("int changed;\n")
    lay_out(open_tree(tree, {"drivers/md/dm-snap.c": mine}), farm)
    assert (farm / "drivers/md/dm-snap.c").read_text() == "int changed;\n"
    lay_out(open_tree(tree), farm)
    assert seen(farm) == sorted(FILES)
    assert (farm / "drivers/md/dm-snap.c").read_text() == FILES["drivers/md/dm-snap.c"]
    # The tree's is older than what was built of the other one: kbuild would not see the change.
    again = (farm / "drivers/md/dm-snap.c").stat().st_mtime_ns
    assert again > first
    (tree / "drivers/md/dm-snap.c").write_text("int newer;\n")
    lay_out(open_tree(tree), farm)
    assert (farm / "drivers/md/dm-snap.c").read_text() == "int newer;\n"
    assert users_words(replaced, farm, f"{farm}/drivers/md/dm-snap.c:1: {farm}/Kbuild") == (
        f"{mine}:1: {tree}/Kbuild"
    )


@pytest.mark.parametrize("name", ["drivers/md/nothing.c", "../Makefile", "/etc/passwd"])
def test_only_a_file_of_the_tree_is_replaced(tree, name):
    with pytest.raises(ProvisioningError, match="the tree has no file"):
        open_tree(tree, {name: tree / "Makefile"})


def test_a_file_that_cannot_be_read_replaces_nothing(tree, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "nothing", tmp_path / "pipe", tmp_path):
        with pytest.raises(ProvisioningError, match="cannot be read"):
            open_tree(tree, {"drivers/md/dm-snap.c": file})


# -- shims ------------------------------------------------------------------------------------


def test_shims_are_chosen_by_what_a_file_uses(tree, tmp_path):
    mine = tmp_path / "mine.c"
    mine.write_text("generic_make_request(bio); list_add(&e->hash_list, l);\n")
    fitted, fitting = shims.fit(open_tree(tree, {"drivers/md/dm-snap.c": mine}))
    assert fitting.flags == ("CFLAGS_dm-snap.o=-Dgeneric_make_request=submit_bio_noacct",)
    assert len(fitting.words) == 2
    assert b"struct list_head hash_list;" in fitted.laid_over["drivers/md/dm-exception-store.h"]
    assert fitted.laid_over["drivers/md/dm-snap.c"] == mine.read_bytes()

    mine.write_text("list_add(&o->hash_list, l); hlist_add_head(&e->hash_list, l);\n")
    fitted, _fitting = shims.fit(open_tree(tree, {"drivers/md/dm-snap.c": mine}))
    assert b"struct hlist_node hash_list;" in fitted.laid_over["drivers/md/dm-exception-store.h"]

    mine.write_text("submit_bio_noacct(bio); hlist_bl_add_head(&e->hash_list, l);\n")
    as_it_is = open_tree(tree, {"drivers/md/dm-snap.c": mine})
    assert shims.fit(as_it_is) == (as_it_is, shims.Fitting())


# -- fragments --------------------------------------------------------------------------------


def test_each_option_that_ships_has_a_reason():
    for name in ("", *config.PRESETS):
        text = config.fragment((name,) if name else ())
        reason = False
        for line in text.splitlines():
            if not line.strip():
                reason = False
            elif line.startswith("CONFIG_") or line.endswith(" is not set"):
                # The two that every kernel has to have stand below a heading.
                assert reason or line in ("CONFIG_MODULES=y",), line
            else:
                reason = True


def test_a_preset_says_what_it_is_about():
    assert [config.about(name) for name in config.PRESETS] == [
        "CONFIG_KASAN",
        "CONFIG_PROVE_LOCKING",
        "CONFIG_UBSAN",
        "CONFIG_DEBUG_KMEMLEAK",
        "CONFIG_KCSAN",
        "CONFIG_DEBUG_LIST",
        "CONFIG_FAILSLAB",
    ]
    assert "CONFIG_KASAN" not in config.options(config.fragment())
    with pytest.raises(ProvisioningError, match="no preset 'nothing'"):
        config.fragment(["nothing"])


def test_what_a_kernel_lacks():
    wanted = config.options("CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=17\n# CONFIG_D is not set\n")
    assert config.lacking(wanted, config.options("CONFIG_A=m\nCONFIG_B=y\nCONFIG_C=17\n")) == {}
    assert config.lacking(wanted, config.options("# CONFIG_A is not set\nCONFIG_C=18\n")) == {
        "CONFIG_A": "y",
        "CONFIG_B": "m",
        "CONFIG_C": "17",
    }


def test_what_is_lacking_is_told_with_the_scenarios_that_need_it():
    traces = [scenario.trace(1) for scenario in choose(())]
    said = needs.told(["CONFIG_DM_DUST", "CONFIG_HOSTFS", "CONFIG_IKCONFIG"], traces)
    dust = sum(
        any(line.type == "dust" for step in trace.steps for line in getattr(step, "table", ()))
        for trace in traces
    )
    assert 0 < dust < len(traces)
    assert said == (
        f"this kernel lacks CONFIG_DM_DUST ({dust} scenarios), CONFIG_HOSTFS ({len(traces)} "
        "scenarios)"
    )
    assert needs.told([], traces) == ""


# -- what make says ---------------------------------------------------------------------------


def test_the_compilers_first_error_is_told_with_what_it_quotes():
    said = kbuild.errors(
        "  CC [M]  drivers/md/dm-snap.o\n"
        "drivers/md/dm-snap.c: In function 'a':\n"
        "drivers/md/dm-snap.c:7:2: error: unknown type name 'foo'\n"
        "    7 |  foo bar;\n"
        "      |  ^~~\n"
        "make[4]: *** [scripts/Makefile.build:229: drivers/md/dm-snap.o] Error 1\n"
        "make: *** [Makefile:224: __sub-make] Error 2\n"
    )
    assert said == [
        "drivers/md/dm-snap.c:7:2: error: unknown type name 'foo'",
        "    7 |  foo bar;",
        "      |  ^~~",
    ]
    assert kbuild.errors("make: *** No rule to make target 'all'.  Stop.\n") == [
        "make: *** No rule to make target 'all'.  Stop."
    ]
    assert kbuild.errors("") == ["make says nothing"]


def test_all_that_is_missing_is_named_with_its_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(kbuild, "search_path", lambda: str(tmp_path))
    with pytest.raises(
        ProvisioningError, match=r"flex.*install -y make gcc binutils flex bison bc"
    ):
        kbuild.check()


# -- a build, with a make of our own ----------------------------------------------------------

MAKE = """#!/bin/sh
# Says which files it sees, and makes what kbuild would.
for word; do case $word in O=*) out=${word#O=} ;; KCONFIG_ALLCONFIG=*) all=${word#*=} ;; esac; done
shift 1; cd "$1" || exit
echo "$@" >>"$out/calls"
env >"$out/env"
[ -e "$out/busy" ] && { echo "two at once: error: busy"; exit 1; }
touch "$out/busy"
if [ "$all" ]; then
    cp "$all" "$out/.config"
else
    if grep -q broken drivers/md/dm-snap.c; then
        echo "$PWD/drivers/md/dm-snap.c:1:1: error: broken"; rm "$out/busy"; exit 2
    fi
    mkdir -p "$out/include/config" "$out/drivers/md"
    echo 6.12.117 >"$out/include/config/kernel.release"
    cp drivers/md/dm-snap.c "$out/drivers/md/dm-snapshot.ko"
    echo program >"$out/linux"; chmod +x "$out/linux"
fi
rm "$out/busy"
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A PATH with programs that a build takes, and a cache of our own."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name in kbuild.PREREQUISITES:
        (bin_dir / name).write_text("#!/bin/sh\nexit 1\n")
        (bin_dir / name).chmod(0o755)
    (bin_dir / "awk").unlink()
    (bin_dir / "make").write_text(MAKE)
    monkeypatch.setattr(kbuild, "_HEADER", Path("/"))
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return bin_dir


@pytest.mark.usefixtures("tools")
def test_a_kernel_is_built_in_the_cache_and_set_aside(tree, monkeypatch):
    monkeypatch.setenv("ARCH", "arm64")
    monkeypatch.setenv("MAKEFLAGS", "-k")
    before = listing(tree)
    kernel = source.build(open_tree(tree))
    assert listing(tree) == before
    assert kernel.release == "6.12.117"
    assert kernel.built == f"built of {tree} (6.12.117-rc1)"
    module = next(kernel.modules.rglob("dm-snapshot.ko"))
    assert module.read_text() == FILES["drivers/md/dm-snap.c"]
    objects = source.place_of(open_tree(tree), ()) / "objects"
    environment = (objects / "env").read_text().splitlines()
    assert not [line for line in environment if line.startswith(("ARCH=arm", "MAKEFLAGS=-k"))]
    assert all("ARCH=um" in call for call in (objects / "calls").read_text().splitlines())

    (tree / "drivers/md/dm-snap.c").write_text("int changed;\n")
    again = source.build(open_tree(tree))
    assert next(again.modules.rglob("dm-snapshot.ko")).read_text() == "int changed;\n"
    assert module.read_text() == FILES["drivers/md/dm-snap.c"], "a guest may still load it"


@pytest.mark.usefixtures("tools")
def test_a_compile_error_names_the_users_file(tree, tmp_path):
    (tree / "drivers/md/dm-snap.c").write_text("broken\n")
    with pytest.raises(BuildFailed) as caught:
        source.build(open_tree(tree))
    assert f"{tree}/drivers/md/dm-snap.c:1:1: error: broken" in str(caught.value)
    mine = tmp_path / "mine.c"
    mine.write_text("broken, too\n")
    with pytest.raises(BuildFailed) as caught:
        source.build(open_tree(tree, {"drivers/md/dm-snap.c": mine}))
    assert f"\n{mine}:1:1: error: broken" in str(caught.value)


def test_an_option_that_no_guest_can_do_without(tree, tools):
    make = (tools / "make").read_text()
    (tools / "make").write_text(
        make.replace('cp "$all"', 'grep -v "HOSTFS\\|_TMPFS\\|DUST" "$all" >')
    )
    with pytest.raises(BuildFailed, match="no CONFIG_HOSTFS, CONFIG_TMPFS: no guest"):
        source.build(open_tree(tree))
    (tools / "make").write_text(make.replace('cp "$all"', 'grep -v "KCSAN\\|DUST" "$all" >'))
    assert source.build(open_tree(tree)).lacks == ("CONFIG_DM_DUST",)
    with pytest.raises(BuildFailed, match="no CONFIG_KCSAN: leave out --preset kcsan"):
        source.build(open_tree(tree), presets=["kcsan"])


@pytest.mark.usefixtures("tools")
def test_two_builds_of_one_tree_do_not_meet(tree):
    faults = []

    def build():
        try:
            source.build(open_tree(tree))
        except ProvisioningError as fault:
            faults.append(fault)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


@pytest.mark.usefixtures("tools")
def test_a_cache_where_kbuild_cannot_work_is_refused(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a cache"))
    with pytest.raises(ProvisioningError, match="a space or a colon"):
        source.build(open_tree(tree))


@pytest.mark.usefixtures("tools")
def test_what_is_kept_outlives_the_next_build(tree):
    replaced = kept.keep(source.build(open_tree(tree)), "mine")
    (tree / "drivers/md/dm-snap.c").write_text("int changed;\n")
    source.build(open_tree(tree))
    assert kept.names() == ["mine"]
    assert kept.get("mine") == replaced
    assert next(replaced.modules.rglob("*.ko")).read_text() == FILES["drivers/md/dm-snap.c"]
    for name in ("uml-6.12", "a/b", "all", "", "-x"):
        with pytest.raises(ProvisioningError, match=r"called|of the catalogue"):
            kept.keep(replaced, name)
    with pytest.raises(ProvisioningError, match="no kernel that dmsnap built"):
        kept.get("another")


# -- exit statuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--source", "/nothing"], EXIT_CANNOT_BE_JUDGED, "no such directory"),
        (["--source", "debian:1.0"], EXIT_CANNOT_BE_JUDGED, "Debian's source is known of 6.1"),
        (["--source", "{tree}"], EXIT_CANNOT_BE_JUDGED, "dm-snap.c:1:1: error: broken"),
        (["--source", "{tree}", "--replace", "x"], EXIT_CANNOT_BE_JUDGED, "say NAME=FILE"),
        (["--replace", "a=b"], 2, "need --source TREE"),
        (["--source", "{tree}", "--guest", "here"], 2, "leave out --modules and --guest"),
        (["--source", "{tree}", "nothing*"], EXIT_CANNOT_BE_JUDGED, "nothing"),
    ],
)
@pytest.mark.usefixtures("tools")
def test_what_keeps_a_source_from_a_verdict_has_a_status_of_its_own(
    tree, tmp_path, words, status, said
):
    (tree / "drivers/md/dm-snap.c").write_text("broken\n")
    words = [word.format(tree=tree) for word in words]
    done = CliRunner().invoke(main, ["run", "--report", str(tmp_path / "report"), *words])
    assert said in done.output
    assert done.exit_code == status


def test_a_fragment_is_printed():
    done = CliRunner().invoke(main, ["config", "--preset", "kasan"])
    assert done.exit_code == 0
    assert done.output == config.fragment(["kasan"])


# -- modules of one's own ---------------------------------------------------------------------

SNAPSHOT = Module("dm-snapshot", "6.12 ", frozenset({"dm_get_device"}), b"", {"dm_get_device": 1})
DM = Module("dm-mod", "6.12 ", frozenset({"printk"}), b"x_dm_get_device\0", {"printk": 7})


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (SNAPSHOT, []),
        (
            Module("a", "6.13 SMP", frozenset(), b"", {}),
            ["a is for '6.13 SMP', and this kernel is '6.12'"],
        ),
        (
            Module("a", "6.12 ", frozenset({"gone", "printk"}), b"", {"printk": 7}),
            ["a needs what nothing exports: gone"],
        ),
        (
            Module("a", "6.12 ", frozenset(), b"", {}),
            ["a has no checksums, and this kernel wants them"],
        ),
        (
            Module("a", "6.12 ", frozenset(), b"", {"printk": 8}),
            ["a was built with another form of printk"],
        ),
    ],
)
def test_what_a_kernel_would_refuse(module, said):
    assert fit.misfits([module], [DM], b"printk\0") == said


def test_what_is_no_module_is_refused(tmp_path):
    for text in (b"", b"\x7fELF\x02\x01\x01" + bytes(57), b"rubbish"):
        (tmp_path / "dm-snapshot.ko").write_bytes(text)
        with pytest.raises(ProvisioningError, match="is no kernel module"):
            fit.read(tmp_path / "dm-snapshot.ko")


def test_modules_are_found_wherever_they_lie(tmp_path):
    with pytest.raises(ProvisioningError, match="no such directory"):
        modules.found_in(tmp_path / "nothing")
    with pytest.raises(ProvisioningError, match="none of the modules that guests load"):
        modules.found_in(tmp_path)
    write(tmp_path, {"lib/modules/6/updates/dm_snapshot.ko": "a", "fs/ext4.ko": "b"})
    assert list(modules.found_in(tmp_path)) == ["dm-snapshot"]
    write(tmp_path, {"drivers/md/dm-snapshot.ko": "another"})
    with pytest.raises(ProvisioningError, match="several of one name"):
        modules.found_in(tmp_path)


def test_modules_are_laid_over_a_kernels_own(tmp_path):
    own = tmp_path / "own"
    write(own, {"kernel/drivers/md/dm-snapshot.ko.xz": "old", "kernel/drivers/md/dm-mod.ko": "old"})
    write(tmp_path, {"dm-snapshot.ko": "new", "dm-dust.ko": "new"})
    names = ("dm-snapshot", "dm-dust")
    modules.lay_over(own, {name: tmp_path / f"{name}.ko" for name in names}, tmp_path / "mixed")
    assert {path.name: path.read_text() for path in (tmp_path / "mixed").rglob("*.ko*")} == {
        "dm-snapshot.ko": "new",
        "dm-dust.ko": "new",
        "dm-mod.ko": "old",
    }
    assert sorted(path.name for path in own.rglob("*.ko*")) == ["dm-mod.ko", "dm-snapshot.ko.xz"]
