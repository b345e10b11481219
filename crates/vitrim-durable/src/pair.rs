//! Two files of one folder that belong together; a reader never finds one new and one old.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::file::{rename, replace};
use crate::{FileError, create_folder};

/// A `head` that identifies its `body` (by a hash of the body's bytes), and the `body`.
///
/// [`Pair::replace`] goes in three durable steps:
///
/// 1. the new body is written next to the old one, as `<body>.new`;
/// 2. the head is replaced: from here on the pair is the new one;
/// 3. `<body>.new` is renamed to `<body>`.
///
/// A reader reads the head first, and then takes whichever of `<body>.new` and `<body>` belongs to it: it finds a
/// complete pair after each of the steps, also if the next one never happens ([`Pair::read`]). A pair that was
/// written in another way, without `<body>.new`, can be read as well.
///
/// ```
/// use vitrim_durable::Pair;
/// # let folder = tempfile::tempdir().expect("a temporary folder");
/// // Here, a head that belongs to a body repeats its bytes.
/// let pair = Pair::new(folder.path(), "a.json", "a.bin", |head, body| head == body);
/// pair.replace(b"1", b"1")?;
/// assert_eq!(pair.read()?, (b"1".to_vec(), Some(b"1".to_vec())));
/// # Ok::<(), vitrim_durable::FileError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pair {
    folder: PathBuf,
    head: PathBuf,
    body: PathBuf,
    new_body: PathBuf,
    belongs: fn(&[u8], &[u8]) -> bool,
}

impl Pair {
    /// The files `head` and `body` of `folder`; `belongs(head, body)` says whether the body belongs to the head.
    pub fn new(folder: &Path, head: &str, body: &str, belongs: fn(&[u8], &[u8]) -> bool) -> Self {
        Pair {
            folder: folder.to_owned(),
            head: folder.join(head),
            body: folder.join(body),
            new_body: folder.join(format!("{body}.new")),
            belongs,
        }
    }

    /// Replaces both files; creates the folder if it is missing. Writers wait for each other if the file system can
    /// lock a folder.
    ///
    /// # Errors
    /// If a file cannot be written; the pair is then either the old or the new one.
    pub fn replace(&self, head: &[u8], body: &[u8]) -> Result<(), FileError> {
        create_folder(&self.folder)?;
        let _turn = File::open(&self.folder).and_then(|folder| folder.lock().map(|()| folder)).ok();
        self.settle()?;
        self.steps(head, body).iter().try_for_each(|step| step())
    }

    /// Completes a replacement that was interrupted after its second step; otherwise the first step of the next one
    /// would overwrite the body that the head belongs to.
    fn settle(&self) -> Result<(), FileError> {
        let read = |path: &Path| found(fs::read(path)).map_err(FileError::of("read", path));
        match (read(&self.head)?, read(&self.new_body)?) {
            (Some(head), Some(body)) if (self.belongs)(&head, &body) => self.name_new_body(),
            _ => Ok(()),
        }
    }

    /// The steps of a replacement.
    fn steps<'a>(&'a self, head: &'a [u8], body: &'a [u8]) -> [Step<'a>; 3] {
        [
            Box::new(|| replace(&self.new_body, body)),
            Box::new(|| replace(&self.head, head)),
            Box::new(|| self.name_new_body()),
        ]
    }

    fn name_new_body(&self) -> Result<(), FileError> {
        rename(&self.new_body, &self.body).map_err(FileError::of("write", &self.body))
    }

    /// The head, and the body that belongs to it; `None` if neither file does.
    ///
    /// # Errors
    /// If the head cannot be read, or there is no body.
    pub fn read(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), FileError> {
        let read = |path: &Path| fs::read(path).map_err(FileError::of("read", path));
        let mut head = read(&self.head)?;
        loop {
            // In this order, because a writer may rename the one to the other in between.
            let new_body = found(fs::read(&self.new_body)).map_err(FileError::of("read", &self.new_body))?;
            let body = read(&self.body);
            let bodies = new_body.into_iter().chain(body.as_ref().ok().cloned());
            if let Some(body) = bodies.into_iter().find(|body| (self.belongs)(&head, body)) {
                return Ok((head, Some(body)));
            }
            // No body belongs to the head, unless the pair has been replaced meanwhile.
            let head_now = read(&self.head)?;
            if head_now == head {
                return body.map(|_| (head, None));
            }
            head = head_now;
        }
    }
}

/// One step of a replacement.
type Step<'a> = Box<dyn Fn() -> Result<(), FileError> + 'a>;

fn found<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head is the body, shortened: `7` belongs to `7777...`.
    fn belongs(head: &[u8], body: &[u8]) -> bool {
        body.len() == 5000 && body.iter().all(|byte| *byte == head[0])
    }

    fn pair(folder: &Path) -> Pair {
        Pair::new(folder, "head", "body", belongs)
    }

    fn write(pair: &Pair, number: u8) {
        pair.replace(&[number], &[number; 5000]).unwrap();
    }

    /// Simulates a process that is killed after `steps` steps of the replacement.
    fn write_until(pair: &Pair, number: u8, steps: usize) {
        pair.settle().unwrap();
        pair.steps(&[number], &[number; 5000])[..steps].iter().for_each(|step| step().unwrap());
    }

    fn number(pair: &Pair) -> u8 {
        let (head, body) = pair.read().unwrap();
        assert!(belongs(&head, &body.expect("a body that belongs to the head")));
        head[0]
    }

    #[test]
    fn a_stop_between_any_two_steps_leaves_the_old_pair_or_the_new_one() {
        for steps in 0..=3 {
            let folder = tempfile::tempdir().unwrap();
            let pair = pair(folder.path());
            write(&pair, 1);
            write_until(&pair, 2, steps);
            assert_eq!(number(&pair), if steps < 2 { 1 } else { 2 }, "after {steps} steps");
            // Stopped again, at any step of the next replacement.
            for next in 0..=3 {
                write_until(&pair, 3 + next, usize::from(next));
                let before = number(&pair);
                assert!(next < 2 || before == 3 + next, "after {steps} steps, then {next}");
            }
            write(&pair, 9);
            assert_eq!(number(&pair), 9);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "only the pair is left");
        }
    }

    #[test]
    fn a_new_pair_that_is_broken_off_is_absent_or_whole() {
        for steps in 0..=3 {
            let folder = tempfile::tempdir().unwrap();
            let pair = pair(folder.path());
            write_until(&pair, 1, steps);
            match steps < 2 {
                true => assert!(pair.read().is_err(), "no head yet"),
                false => assert_eq!(number(&pair), 1),
            }
        }
    }

    #[test]
    fn a_body_that_does_not_belong_to_the_head_is_not_given_out() {
        let folder = tempfile::tempdir().unwrap();
        let pair = pair(folder.path());
        write(&pair, 1);
        fs::write(folder.path().join("body"), [2; 5000]).unwrap();
        assert_eq!(pair.read().unwrap(), (vec![1], None));
        fs::remove_file(folder.path().join("body")).unwrap();
        let error = pair.read().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot read {}: ", folder.path().join("body").display())),
            "{error}"
        );
    }

    #[test]
    fn readers_and_writers_at_once_see_whole_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let pair = pair(folder.path());
        write(&pair, 0);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let pair = &pair;
                scope.spawn(move || (0..40).for_each(|i| write(pair, 2 * i + thread)));
            }
            for _ in 0..2 {
                let pair = &pair;
                scope.spawn(move || (0..200).for_each(|_| _ = number(pair)));
            }
        });
    }
}
