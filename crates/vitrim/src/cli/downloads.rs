//! Progress of downloads from the Hub, on stderr: a bar on a terminal, a few lines elsewhere.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use vitrim_hub::{DownloadEvent, observe};

use super::interrupt;

/// Time between two lines if there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);
const TEMPLATE: &str = "{prefix} [{bar:24}] {decimal_bytes}/{decimal_total_bytes} {msg}";

/// The progress bar or lines of a download.
struct Shown {
    uri: String,
    bar: Option<ProgressBar>,
    bytes: Option<u64>,
    said: Instant,
}

/// Shows downloads from now on, unless `quiet`; an interruption stops them.
pub fn show(quiet: bool) {
    let terminal = std::io::stderr().is_terminal();
    let shown = Mutex::new(None::<Shown>);
    observe(move |event| {
        if !quiet {
            tell(&mut shown.lock().unwrap_or_else(PoisonError::into_inner), event, terminal);
        }
        if interrupt::is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

fn tell(shown: &mut Option<Shown>, event: DownloadEvent<'_>, terminal: bool) {
    match (event, shown.as_mut()) {
        (DownloadEvent::Begin { uri, files, bytes }, _) => {
            let count = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            let bar = terminal.then(|| ProgressBar::new(bytes.unwrap_or(0)));
            match &bar {
                Some(bar) => {
                    let style = ProgressStyle::with_template(TEMPLATE);
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                    bar.set_prefix(format!("fetching {uri}"));
                    bar.set_message(count);
                }
                None => {
                    let size = bytes.map(|bytes| format!(", {}", DecimalBytes(bytes))).unwrap_or_default();
                    eprintln!("fetching {uri}: {count}{size}");
                }
            }
            *shown = Some(Shown { uri: uri.to_owned(), bar, bytes, said: Instant::now() });
        }
        (DownloadEvent::Bytes(done), Some(Shown { bar: Some(bar), .. })) => bar.set_position(done),
        (DownloadEvent::Bytes(done), Some(shown)) if shown.said.elapsed() >= PAUSE => {
            let of = shown.bytes.map(|bytes| format!(" of {}", DecimalBytes(bytes))).unwrap_or_default();
            eprintln!("fetching {}: {}{of}", shown.uri, DecimalBytes(done));
            shown.said = Instant::now();
        }
        (DownloadEvent::End, Some(_)) => {
            if let Some(bar) = shown.take().and_then(|shown| shown.bar) {
                bar.finish_and_clear();
            }
        }
        (DownloadEvent::Note(note), _) => eprintln!("{note}"),
        (DownloadEvent::Bytes(_) | DownloadEvent::End, _) => {}
    }
}
