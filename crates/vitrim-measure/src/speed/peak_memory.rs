//! Peak resident memory of the process, as reported by Linux.

/// Resets the peak; false if that is not possible.
pub fn reset() -> bool {
    // See proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Peak in bytes since the start of the process, or since [`reset`]; `None` on systems other than Linux.
pub fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    Some(kilobytes.trim().parse::<usize>().ok()? << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_was_freed_counts_until_it_is_reset() {
        let ballast = std::hint::black_box(vec![1u8; 256 << 20]);
        assert!(peak().unwrap() > ballast.len());
        drop(ballast);
        assert!(peak().unwrap() > 256 << 20);
        if reset() {
            assert!(peak().unwrap() < 256 << 20);
        }
    }
}
