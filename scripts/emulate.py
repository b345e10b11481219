"""Runs a static Linux program of one thread on a processor that this machine is not: Bochs emulates it.

    python3 -m venv .emulator && .emulator/bin/pip install bochscpu-python
    .emulator/bin/python scripts/emulate.py arrow_lake PROGRAM [ARGUMENT ...]

`just emulate` runs the kernels' tests that way. Processors are named as Bochs names them: arrow_lake (AVX2 with AVX-VNNI),
corei7_icelake_u and tigerlake (AVX-512 with VNNI), sapphire_rapids (with BF16, too). Some 30 million instructions a second; time
means nothing in there. The program shares this process's memory and asks this machine's kernel; it gets no files, no threads
and no signals.
"""

import ctypes
import os
import struct
import subprocess
import sys
import tempfile

# The wheel is built against a newer glibc than Debian 12's, and always takes Cannon Lake, a function of its own that this one
# stands in for.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
unsigned long long __isoc23_strtoull(const char *s, char **end, int base) { return strtoull(s, end, base); }
int __isoc23_sscanf(const char *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int read = vsscanf(s, format, arguments);
    va_end(arguments);
    return read;
}
void *_Z23create_corei3_cnl_cpuidP8BX_CPU_C(void *cpu) {
    void *bochs = dlopen(getenv("EMULATOR_LIBRARY"), RTLD_LAZY | RTLD_NOLOAD);
    void *(*create)(void *) = bochs ? dlsym(bochs, getenv("EMULATOR_PROCESSOR")) : NULL;
    if (!create) {
        fprintf(stderr, "emulate: %s\n", dlerror());
        exit(2);
    }
    return create(cpu);
}
"""

PAGE = 4096
ARENA = 16 << 30
ARENA_SIZE = 12 << 30
EAGAIN, ENOSYS = 11, 38


class Call:
    """System calls of x86-64."""

    READLINK, OPEN, OPENAT, STAT, FSTAT, NEWFSTATAT, STATX, ACCESS, GETCWD = 89, 2, 257, 4, 5, 262, 332, 21, 79
    WRITE, IOCTL, POLL, SCHED_YIELD, GETPID, GETTID, FUTEX, SCHED_GETAFFINITY = 1, 16, 7, 24, 39, 186, 202, 204
    CLOCK_GETTIME, CLOCK_NANOSLEEP, PRLIMIT64, GETRANDOM = 228, 230, 302, 318
    MMAP, MPROTECT, MUNMAP, BRK, MREMAP, MADVISE = 9, 10, 11, 12, 25, 28
    RT_SIGACTION, RT_SIGPROCMASK, SIGALTSTACK = 13, 14, 131
    CLONE, CLONE3, EXIT, EXIT_GROUP, ARCH_PRCTL, SET_TID_ADDRESS, SET_ROBUST_LIST, RSEQ = 56, 435, 60, 231, 158, 218, 273, 334

    PASSED_ON = {WRITE, IOCTL, POLL, SCHED_YIELD, GETPID, GETTID, FUTEX, SCHED_GETAFFINITY} | {
        CLOCK_GETTIME,
        CLOCK_NANOSLEEP,
        PRLIMIT64,
        GETRANDOM,
    }
    # The program finds no files.
    REFUSED = {READLINK, OPEN, OPENAT, STAT, FSTAT, NEWFSTATAT, STATX, ACCESS, GETCWD, CLONE3, RSEQ}
    # Memory stays as it is, the heap (of no size) where it is, and signals do not come.
    IGNORED = {MPROTECT, MUNMAP, BRK, MADVISE, RT_SIGACTION, RT_SIGPROCMASK, SIGALTSTACK, SET_ROBUST_LIST}


def restart_with_shim(processor: str) -> None:
    """Starts this script again, with the shim loaded before Bochs."""
    if "EMULATOR_PROCESSOR" in os.environ:
        return
    with tempfile.TemporaryDirectory() as folder:
        source, shim = f"{folder}/shim.c", f"{folder}/shim.so"
        with open(source, "w") as file:
            file.write(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
        packages = [path for path in sys.path if os.path.isdir(f"{path}/bochscpu")]
        if not packages:
            sys.exit("emulate: no bochscpu here: pip install bochscpu-python")
        package = f"{packages[0]}/bochscpu"
        library = next(f"{package}/{name}" for name in os.listdir(package) if name.endswith(".so"))
        create = f"create_{processor}_cpuid"
        env = os.environ | {
            "LD_PRELOAD": shim,
            "EMULATOR_LIBRARY": library,
            "EMULATOR_PROCESSOR": f"_Z{len(create)}{create}P8BX_CPU_C",
        }
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=env).returncode)


class Memory:
    """This process's memory, at addresses that the program has as well."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        self.libc.syscall.restype = ctypes.c_long
        self.reserve(ARENA, ARENA_SIZE)
        self.free = ARENA

    def reserve(self, at: int, size: int) -> None:
        readable_writable, fixed_anonymous_unreserved = 3, 0x104022
        if self.libc.mmap(at, size, readable_writable, fixed_anonymous_unreserved, -1, 0) != at:
            sys.exit(f"emulate: {at:#x} is taken")

    def take(self, size: int) -> int:
        """Pages that hold `size` bytes, zero."""
        at, self.free = self.free, self.free + (size + PAGE - 1) // PAGE * PAGE
        if self.free > ARENA + ARENA_SIZE:
            sys.exit("emulate: out of memory")
        return at

    def load_program(self, path: str) -> tuple[int, list[tuple[int, int]]]:
        """Loads a static ELF file; its entry, and what of the auxiliary vector says where its headers are."""
        with open(path, "rb") as file:
            data = file.read()
        entry, headers = struct.unpack_from("<QQ", data, 24)
        size, count = struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQQQ", data, headers + i * size) for i in range(count)]
        if any(kind == 3 for kind, *_ in segments):
            sys.exit(f"emulate: {path} is not static")
        segments = [segment for segment in segments if segment[0] == 1]
        low = min(address for _, _, _, address, *_ in segments) // PAGE * PAGE
        self.reserve(low, max(s[3] + s[6] for s in segments) - low)
        for _, _, offset, address, _, length, *_ in segments:
            ctypes.memmove(address, data[offset : offset + length], length)
        at = next(s[3] + headers - s[2] for s in segments if s[2] <= headers < s[2] + s[5])
        return entry, [(3, at), (4, size), (5, count)]

    def build_stack(self, arguments: list[str], environment: list[str], headers: list[tuple[int, int]]) -> int:
        """The stack of a program that starts: arguments, environment and auxiliary vector."""
        top = self.take(8 << 20) + (8 << 20)

        def push(data: bytes) -> int:
            nonlocal top
            top -= len(data)
            ctypes.memmove(top, data, len(data))
            return top

        strings = [[push(s.encode() + b"\0") for s in strings] for strings in (arguments, environment)]
        auxiliary = [*headers, (6, PAGE), (17, 100), (25, push(os.urandom(16))), (0, 0)]
        words = [len(arguments), *strings[0], 0, *strings[1], 0, *sum(auxiliary, ())]
        top = top // 16 * 16 - len(words) % 2 * 8
        return push(struct.pack(f"<{len(words)}Q", *words))


class Emulator:
    def __init__(self, program: list[str], environment: list[str]):
        import bochscpu
        import bochscpu.cpu
        from bochscpu.memory import page_insert

        self.memory = Memory()
        entry, headers = self.memory.load_program(program[0])
        stack = self.memory.build_stack(program, environment, headers)
        # Every address is its own: one table of 512 pages of a GiB each. A physical page is the same page of this process.
        tables = self.memory.take(2 * PAGE)
        ctypes.memmove(tables, struct.pack("<Q", tables + PAGE + 0x7), 8)
        ctypes.memmove(tables + PAGE, struct.pack("<512Q", *[(i << 30) + 0x87 for i in range(512)]), PAGE)
        # Where system calls go: it halts.
        gate = self.memory.take(PAGE)
        ctypes.memset(gate, 0xF4, PAGE)

        def segment(selector, attributes):
            segment = bochscpu.Segment()
            segment.present, segment.selector, segment.attr = True, selector, attributes
            segment.base, segment.limit = 0, 0xFFFFFFFF
            return segment

        state = bochscpu.State()
        bochscpu.cpu.set_long_mode(state)
        state.cr0 = 0x80010033
        state.cr4 = 0x50620  # PAE, SSE and its exceptions, FSGSBASE, XSAVE
        # The registers that an operating system would let the program use; arrow_lake has none of AVX-512.
        state.xcr0 = 0x7 if "arrow_lake" in os.environ["EMULATOR_PROCESSOR"] else 0xE7
        state.cr3, state.efer = tables, 0xD01
        state.cs = segment(0x10, 0xA09B)
        for name in ("ss", "ds", "es", "fs", "gs"):
            setattr(state, name, segment(0x18, 0xC093))
        state.star, state.lstar, state.sfmask = 0x10 << 32, gate, 0
        state.mxcsr, state.mxcsr_mask, state.fpcw, state.fptw = 0x1F80, 0xFFFF, 0x37F, 0xFFFF
        state.rip, state.rsp, state.rflags = entry, stack, 2

        self.page_insert = page_insert
        self.session = bochscpu.Session()
        self.session.missing_page_handler = self.missing_page
        self.session.cpu.set_state(state)
        self.hook = bochscpu.Hook()
        self.hook.hlt = lambda session, cpu: session.stop()
        self.hook.exception = self.exception
        self.exit_status = None
        self.test_begins = False

    def missing_page(self, address: int) -> None:
        page = address // PAGE * PAGE
        self.page_insert(page, page)

    def exception(self, session, cpu, vector, error):
        cpu = session.cpu
        print(f"emulate: exception {vector} ({error:#x}) at {cpu.rip:#x}, cr2 {cpu.cr2:#x}", file=sys.stderr)
        self.exit_status = 128 + vector
        session.stop()

    def run(self) -> int:
        while True:
            self.session.run([self.hook])
            if self.exit_status is not None:
                return self.exit_status
            state = self.session.cpu.state
            arguments = [state.rdi, state.rsi, state.rdx, state.r10, state.r8, state.r9]
            result = self.system_call(state, state.rax, arguments)
            if self.exit_status is not None:
                return self.exit_status
            state.rax = result & (2**64 - 1)
            state.rip, state.rflags = state.rcx, state.r11
            self.session.cpu.set_state_no_flush(state)

    def system_call(self, state, number: int, a: list[int]) -> int:
        if number == Call.WRITE and ctypes.string_at(a[1], min(a[2], 5)) == b"test ":
            self.test_begins = True
        if number in Call.PASSED_ON:
            result = self.memory.libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(v) for v in a])
            return result if result != -1 else -ctypes.get_errno()
        if number in Call.REFUSED:
            return -ENOSYS
        if number in Call.IGNORED:
            return 0
        match number:
            case Call.MMAP if a[3] & 0x20 and not a[3] & 0x10:  # anonymous, and anywhere
                return self.memory.take(a[1])
            case Call.MREMAP:
                at = self.memory.take(a[2])
                ctypes.memmove(at, a[0], min(a[1], a[2]))
                return at
            case Call.ARCH_PRCTL if a[0] == 0x1002:  # ARCH_SET_FS: where thread-local storage is
                fs = state.fs
                fs.base = a[1]
                state.fs = fs
                return 0
            case Call.CLONE:
                # Who starts tests goes on alone where there are too many threads, Rayon where there are none at all.
                begins, self.test_begins = self.test_begins, False
                return -EAGAIN if begins else -ENOSYS
            case Call.SET_TID_ADDRESS:
                return os.getpid()
            case Call.EXIT | Call.EXIT_GROUP:
                self.exit_status = a[0] & 0xFF
                return 0
        print(f"emulate: no system call {number} {[hex(v) for v in a]}", file=sys.stderr)
        return -ENOSYS


def main() -> int:
    if len(sys.argv) < 3:
        sys.exit("usage: emulate.py PROCESSOR PROGRAM [ARGUMENT ...]")
    restart_with_shim(sys.argv[1])
    passed = ("PROPTEST_", "RUST_", "VITRIM_")
    environment = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(passed)]
    return Emulator(sys.argv[2:], environment).run()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Bochs does not survive being taken down.
    os._exit(status)
