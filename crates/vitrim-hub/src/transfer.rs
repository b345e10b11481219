//! Downloads a file into the cache. The bytes become a blob only when all of them have arrived and match the Hub's
//! hash. An interrupted download continues where it stopped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use sha2::{Digest, Sha256};

use crate::client::{Failed, one_line};
use crate::error::{HubError, Result, file_error};
use crate::remote::{Blob, Remote};

/// Bytes per read.
const BUFFER: usize = 1 << 18;
/// How often an interrupted download is resumed.
const TRIES: u32 = 3;
/// Pause before the first retry; it doubles each time.
const PAUSE: Duration = Duration::from_millis(300);

/// Called with the number of new bytes of a file (negative if it starts again).
pub(crate) type Tick<'a> = &'a dyn Fn(i64) -> ControlFlow<()>;

/// A file that is fetched.
pub(crate) struct Transfer<'a> {
    pub remote: &'a Remote<'a>,
    /// The reference, for errors.
    pub uri: &'a str,
    pub commit: &'a str,
    pub name: &'a str,
    pub blob: &'a Blob,
}

impl Transfer<'_> {
    /// Fetches the bytes to `path`, unless they are already there.
    ///
    /// # Errors
    /// If the Hub returns an error, the connection fails repeatedly, the bytes are not those announced, the cache
    /// cannot be written, or `tick` breaks.
    pub(crate) fn run(&self, path: &Path, tick: Tick<'_>) -> Result<()> {
        let Blob { etag, size } = self.blob;
        if path.is_file() {
            return progress(tick, *size as i64);
        }
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(file_error("write", folder))?;
        let part = path.with_added_extension("part");
        let write = || file_error("write", &part);
        let mut file = File::options().read(true).append(true).create(true).open(&part).map_err(write())?;
        // Another process may be fetching the file. Some file systems cannot lock; the file may then be fetched
        // twice.
        match file.lock() {
            Err(error) if error.kind() != std::io::ErrorKind::Unsupported => return Err(write()(error)),
            _ if path.is_file() => return progress(tick, *size as i64),
            _ => {}
        }
        let mut have = file.metadata().map_err(write())?.len();
        if have > *size {
            file.set_len(0).map_err(write())?;
            have = 0;
        }
        progress(tick, have as i64)?;
        let mut failures = 0;
        while have < *size {
            progress(tick, 0)?;
            let broken = match self.attempt(&mut file, &mut have, &part, tick) {
                Ok(()) if have >= *size => break,
                Ok(()) => "the connection was closed".to_owned(),
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Now(reason)) => reason,
            };
            failures += 1;
            if failures == TRIES {
                return Err(self.failed(format!(
                    "broke off after {have} of {size} bytes ({broken}); run the same command again to go on"
                )));
            }
            std::thread::sleep(PAUSE * 2u32.pow(failures - 1));
        }
        if let Err(reason) = check(&mut file, have, self.blob).map_err(file_error("read", &part))? {
            file.set_len(0).map_err(write())?;
            return Err(self.failed(format!("{reason}; run the same command again to fetch it anew")));
        }
        debug_assert!(path.ends_with(etag));
        Ok(vitrim_durable::move_into_place(&file, &part, path)?)
    }

    /// One request: appends the bytes to `file`, which already holds `have` bytes.
    fn attempt(&self, file: &mut File, have: &mut u64, part: &Path, tick: Tick<'_>) -> Result<(), Broken> {
        let write = |error| Broken::For(file_error("write", part)(error));
        let mut response =
            self.remote.read(self.commit, self.name, *have).map_err(|failed| match failed {
                Failed::Status(404) => {
                    Broken::For(self.failed("is listed, but not there (404); try again later".to_owned()))
                }
                Failed::Status(status) if status >= 500 || status == 429 => {
                    Broken::Now(format!("http status: {status}"))
                }
                Failed::Broken(reason) => Broken::Now(reason),
                lasting => Broken::For(self.remote.refusal(lasting)),
            })?;
        if *have > 0 && response.status() != StatusCode::PARTIAL_CONTENT {
            // The server cannot resume.
            file.set_len(0).map_err(write)?;
            progress(tick, -(*have as i64)).map_err(Broken::For)?;
            *have = 0;
        }
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = response.read(&mut buffer).map_err(|error| Broken::Now(one_line(&error)))?;
            if count == 0 {
                return Ok(());
            }
            file.write_all(&buffer[..count]).map_err(write)?;
            *have += count as u64;
            progress(tick, count as i64).map_err(Broken::For)?;
            if *have > self.blob.size {
                return Ok(());
            }
        }
    }

    fn failed(&self, reason: String) -> HubError {
        HubError::Download { uri: self.uri.to_owned(), file: self.name.to_owned(), reason }
    }
}

/// Why an attempt ended early.
enum Broken {
    /// With a permanent error.
    For(HubError),
    /// With an error after which a retry is possible.
    Now(String),
}

fn progress(tick: Tick<'_>, bytes: i64) -> Result<()> {
    if tick(bytes).is_break() { Err(HubError::Interrupted) } else { Ok(()) }
}

/// An error if the bytes in `file`, of which there are `have`, are wrong.
fn check(file: &mut File, have: u64, blob: &Blob) -> std::io::Result<Result<(), String>> {
    if have != blob.size {
        return Ok(Err(format!("{have} bytes came, {} were announced", blob.size)));
    }
    // Small files are named by git's hash; only their length is checked.
    if blob.etag.len() != 64 {
        return Ok(Ok(()));
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    std::io::copy(file, &mut hash)?;
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(if found == blob.etag {
        Ok(())
    } else {
        Err("its bytes do not have the SHA-256 announced".to_owned())
    })
}
