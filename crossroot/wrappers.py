"""The scripts that take the places of a foreign root's programs: each runs the native program of the tool root, or the
foreign one, emulated, where the native one would not do the same.

Their interpreter is a static shell of the tool root, which starts as fast as the program itself and is not touched by
LD_PRELOAD: Debian's mksh or Alpine's ash. The scripts are for both, so of POSIX and `exec -a`; that of gcc, which
Alpine has for no other arch, for mksh alone.
"""

from dataclasses import dataclass

PLACE = "/dev/crossroot"  # where a session has the tool root; with names short enough for `elf.set_interpreter`
SHELL = "sh"  # names in the tool root
ITSELF = "itself"  # for harec, whose environment has names that no shell passes on
EMULATED = "emulated"  # where the foreign root is seen as it is, without wrappers


@dataclass(frozen=True)
class Program:
    """A program that a native one can replace.

    level: of acceleration, from which on. kind: of its wrapper, a key of KINDS, or ITSELF for the native program.
    file: its absolute path in the root and in the tool root. package: of the root, which has to have the version of
    native_package in the tool root; needs: further packages of both that have to match as well. option: what the kind
    of wrapper has to know. native_file: its path in the tool root, if it has another one there.
    """

    level: int
    kind: str
    file: str
    package: str
    native_package: str
    needs: tuple[str, ...] = ()
    option: tuple[str, ...] = ()
    native_file: str = ""

    @property
    def native(self) -> str:
        """The absolute path in the tool root."""
        return self.native_file or self.file


def script(program: Program, triplet: str) -> str:
    """The wrapper of a program. triplet: GNU's, of the root's arch."""
    return KINDS[program.kind].format(
        place=PLACE,
        native=PLACE + program.native,
        emulated=f"{PLACE}/{EMULATED}{program.file}",
        triplet=triplet,
        option=" ".join(program.option),
        flag=program.option[0] if program.option else "",
        names=" | ".join(f"'{name}'" for name in program.option[1:]),
        offload="y" if "offload" in program.option else "",
    )


# A preloaded library and LD_LIBRARY_PATH are of the root's arch: only the emulated program can load them, and fakeroot
# for instance must not be left out.
_START = """\
#!{place}/sh
emulated() {{
    exec -a "${{0##*/}}" {emulated} "$@"
}}
[ -n "$LD_PRELOAD$LD_LIBRARY_PATH" ] && emulated "$@"
"""

_PLAIN = _START + 'exec -a "${{0##*/}}" {native} "$@"\n'

# Plugins are libraries of the root's arch; what follows the name is the native one for gcc's LTO.
_PLUGGED = (
    _START
    + """\
for word; do
    case $word in
        -plugin | --plugin | -plugin=* | --plugin=*) emulated "$@" ;;
    esac
done
exec -a "${{0##*/}}" {native} {option} "$@"
"""
)

# These are cross compilers whose default is the arch that they were built for.
_DEFAULT = (
    _START
    + """\
for word; do
    case $word in
        {flag} | {flag}?*) exec -a "${{0##*/}}" {native} "$@" ;;
    esac
done
exec -a "${{0##*/}}" {native} {option} "$@"
"""
)

_HARE = (
    _START
    + """\
for word; do
    case $word in
        {flag} | {flag}?*) emulated "$@" ;;
    esac
done
case $1 in
    build | test | run)
        verb=$1
        shift
        exec -a "${{0##*/}}" {native} "$verb" {option} "$@"
        ;;
esac
emulated "$@"
"""
)

# Alpine's driver has prefixed names for the tools of another arch, which the root has without a prefix.
_UNPREFIXED_HARE = _HARE.replace("verb=$1", 'verb=$1\n        export AS="${{AS-as}}" LD="${{LD-ld}}" CC="${{CC-cc}}"')

# One file with many names, which it is called by, or by which its first argument calls it; some of them are native.
_MULTICALL = (
    _START
    + """\
name=${{0##*/}}
[ "$name" = {flag} ] && name=$1
case $name in
    {names}) exec -a "${{0##*/}}" {native} "$@" ;;
esac
emulated "$@"
"""
)

# The native driver names the root's own headers, start files and libgcc exactly as the emulated one does once it has
# the target and the place of its headers; where it lies, it may see by its whole name. Both options come first, so that
# the caller's overrule them. The emulated driver answers questions about itself, and takes what depends on the CPU, on
# a plugin, on the words themselves, or on a file of words.
_CLANG = """\
#!{place}/sh
emulated() {{
    case $1 in
        -cc1*) exec -a "$0" {emulated} "$@" ;;
    esac
    exec -a "$0" {emulated} -resource-dir={flag} "$@"
}}
[ -n "$LD_PRELOAD$LD_LIBRARY_PATH" ] && emulated "$@"
[ $# -eq 0 ] && emulated
for word; do
    case $word in
        -march=native | -mcpu=native | -mtune=native) emulated "$@" ;;
        -v | --version | -'###' | -print-* | --print-* | -dump* | --help* | --autocomplete=*) emulated "$@" ;;
        -cc1* | -fplugin* | -fpass-plugin* | -load | -Xclang=-load | --config*) emulated "$@" ;;
        -grecord-command-line | -grecord-gcc-switches | -frecord-command-line | -frecord-gcc-switches) emulated "$@" ;;
        @*) emulated "$@" ;;
    esac
done
exec -a "$0" {native} --target={triplet} -resource-dir={flag} "$@"
"""

# With GCC_EXEC_PREFIX the native driver and its cc1 name the root's own headers, start files and libgcc exactly as the
# emulated ones do, so that debug information and dependencies have the same paths. Their own programs are found by
# COMPILER_PATH; both variables only reach what gcc itself starts. gcc's headers of C++ are in other places for a cross
# compiler, so they are named, in the same order. A gcc that can offload to a GPU tells cc1 of -lm, and so the debug
# information. The emulated driver answers questions about itself, and takes what
# depends on the CPU, on a plugin, on another linker, or on files of another place.
_COMPILER = (
    _START
    + """\
prefix=/usr/lib/gcc/
if [[ $GCC_EXEC_PREFIX = "$prefix" && $COMPILER_PATH = {place}/* ]]; then
    unset GCC_EXEC_PREFIX COMPILER_PATH LIBRARY_PATH # started by the native driver itself, as for LTO
fi
[[ -n $GCC_EXEC_PREFIX$COMPILER_PATH$LIBRARY_PATH ]] && emulated "$@"
[[ $# -eq 0 ]] && emulated
cxx=/usr/include/c++/{flag}:/usr/include/{triplet}/c++/{flag}:/usr/include/c++/{flag}/backward
links=y
compiles=
set -A words
for word; do
    words+=("$word")
    case $word in
        -march=native | -mcpu=native | -mtune=native) emulated "$@" ;;
        -v | --version | -'###' | -print-* | --print-* | -dump* | --help* | --target-help) emulated "$@" ;;
        -fplugin* | -fuse-ld=* | -specs* | --specs* | -f*-charset=* | -wrapper) emulated "$@" ;;
        -nostdinc | -nostdinc++) cxx= ;;
        -lm) [[ -n "{offload}" ]] && words+=(-foffload-options=-l_GCC_m) ;;
        -c | -S | -E | -M | -MM | -fsyntax-only) links= ;;
        -x | *.c | *.cc | *.cpp | *.cxx | *.c++ | *.C | *.i | *.ii) compiles=y ;;
        --sysroot* | -isysroot* | -B* | -iprefix*) emulated "$@" ;;
        @*)
            [[ -f ${{word#@}} && $(<"${{word#@}}") != *@(native|nostdinc|plugin|-ld|specs|charset|sysroot|-B)* ]] ||
                emulated "$@"
            ;;
    esac
done
[[ -n "{offload}" && -n $links && -n $compiles && $0 = *++* ]] && emulated "$@"
[[ -n $cxx ]] && export CPLUS_INCLUDE_PATH=${{CPLUS_INCLUDE_PATH:+$CPLUS_INCLUDE_PATH:}}$cxx
export GCC_EXEC_PREFIX=$prefix
export COMPILER_PATH={place}/usr/libexec/gcc-cross/{triplet}/{flag}:{place}/usr/{triplet}/bin
exec -a "${{0##*/}}" {native} "${{words[@]}}"
"""
)

KINDS = {
    "plain": _PLAIN,
    "plugged": _PLUGGED,
    "default": _DEFAULT,
    "hare": _HARE,
    "unprefixed-hare": _UNPREFIXED_HARE,
    "multicall": _MULTICALL,
    "clang": _CLANG,
    "compiler": _COMPILER,
}
