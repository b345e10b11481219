//! The machine on which figures were measured.

/// Processor and threads.
pub fn describe() -> String {
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    let brand = system.cpus().first().map_or("", |cpu| cpu.brand()).trim();
    let brand = if brand.is_empty() { std::env::consts::ARCH } else { brand };
    format!("{brand}, {} threads", rayon::current_num_threads())
}
