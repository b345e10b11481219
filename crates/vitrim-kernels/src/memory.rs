//! The C library's allocator: told not to hand large buffers back between uses, but once loading is done.

/// Keeps freed memory in the process. glibc otherwise maps every large buffer afresh and the kernel
/// zeroes its pages one fault at a time (docs/notes/speed-2026-11.md, "Pre-training", has what that costs). Does nothing on
/// other C libraries. Call it once, before threads are started.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: `mallopt` may be called at any time; it refuses what it cannot do, which costs speed only.
        unsafe { libc::mallopt(option, 1 << 30) };
    }
}

/// Hands what is free to the operating system, as after loading, whose buffers are not needed again. Does nothing on
/// other C libraries than glibc.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time; it touches free memory alone.
    unsafe {
        libc::malloc_trim(0)
    };
}
