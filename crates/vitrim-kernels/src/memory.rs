//! The C library's allocator, told not to hand large buffers back between uses.

/// Keeps freed memory in the process. glibc otherwise maps every large buffer afresh and the kernel
/// zeroes its pages one fault at a time (docs/performance.md has what it costs pre-training). Does nothing on
/// other C libraries. Call it once, before threads are started.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: `mallopt` may be called at any time; it refuses what it cannot do, which costs speed only.
        unsafe { libc::mallopt(option, 1 << 30) };
    }
}
