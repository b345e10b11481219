//! How rows are divided among threads.

/// Rows that one thread carries through a chain of row-wise operations: few enough for the widest intermediate of a
/// DeiT-S chunk (128 x 1536 f32) to fit into a 1 MiB L2 cache, and enough for full GEMM speed.
pub const ROW_CHUNK: usize = 128;

/// Rows per task, so that `rows` spread evenly over all threads in chunks of at most [`ROW_CHUNK`].
pub fn rows_per_task(rows: usize) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = rows.div_ceil(ROW_CHUNK).next_multiple_of(threads).max(1);
    rows.div_ceil(tasks).max(1)
}
