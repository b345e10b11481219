//! Settings of the C library's allocator: keep large buffers between uses; return free memory after loading.

/// Keeps freed memory in the process. glibc otherwise maps every large buffer anew, and the kernel zeroes its pages
/// one fault at a time (docs/notes/speed-2026-11.md, "Pre-training", has the cost). Does nothing on other C
/// libraries. Call it once, before threads are started.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: `mallopt` may be called at any time; if it refuses the value, only speed is lost.
        unsafe { libc::mallopt(option, 1 << 30) };
    }
}

/// Returns free memory to the operating system, for example after loading, whose buffers are not needed again. Does
/// nothing on C libraries other than glibc.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `malloc_trim` may be called at any time; it accesses free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}
