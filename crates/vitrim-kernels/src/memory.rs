//! Settings of the C library's allocator: keep large buffers between uses, or return them; return free memory after
//! loading.

/// Keeps freed memory in the process. glibc otherwise maps every large buffer anew, and the kernel zeroes its pages
/// one fault at a time (docs/notes/speed-2026-11.md, "Pre-training", has the cost). Does nothing on other C
/// libraries. Call it once, before threads are started.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set(&[(libc::M_MMAP_THRESHOLD, 1 << 30), (libc::M_TRIM_THRESHOLD, 1 << 30)]);
}

/// Returns freed memory early, for a process that lives long and is given buffers of all sizes. glibc otherwise keeps
/// a heap for each of up to eight threads a core, and each grows to the most that its threads ever held at once. Does
/// nothing on other C libraries. Call it once, before threads are started.
pub fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    set(&[(libc::M_MMAP_THRESHOLD, 1 << 20), (libc::M_TRIM_THRESHOLD, 2 << 20), (libc::M_ARENA_MAX, 4)]);
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(options: &[(libc::c_int, libc::c_int)]) {
    for (option, value) in options {
        // SAFETY: `mallopt` may be called at any time; if it refuses the value, only speed or memory is lost.
        unsafe { libc::mallopt(*option, *value) };
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
