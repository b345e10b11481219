//! Hugging Face's ImageFolder: labels in a table beside the images or above them. Source: the `datasets` library, whose
//! `imagefolder` reads `metadata.csv`, `metadata.jsonl` and `metadata.parquet` with a column `file_name`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::folder::FolderIndex;
use super::list::{Found, ListKind, first_folder, read_metadata};
use super::parquet::has_paths;
use super::split_names::{WHOLE, known};
use crate::error::DataError;
use crate::labels::{StatedLabels, Written, spelling, written};
use crate::sources::folder::name_of;

/// The tables' names and formats.
const TABLES: [(&str, ListKind); 3] = [
    ("metadata.csv", ListKind::Table { delimiter: b',' }),
    ("metadata.jsonl", ListKind::JsonLines),
    ("metadata.parquet", ListKind::Parquet),
];

/// The format of the table at `path`, if it is called like one. A parquet file of that name may hold images instead.
pub(super) fn table_kind(path: &Path) -> Option<ListKind> {
    let kind = TABLES.into_iter().find(|(name, _)| name_of(path) == *name)?.1;
    let is_table = kind != ListKind::Parquet || has_paths(path, &["file_name"]).unwrap_or(false);
    is_table.then_some(kind)
}

/// The splits of the table at `path`: the folders at the start of its paths, if all are called as splits; otherwise one,
/// called as its folder. Each with the folder that it is restricted to.
pub(super) fn splits_of_table(
    path: &Path,
    kind: ListKind,
) -> Result<Vec<(String, Option<String>)>, DataError> {
    let found = read_metadata(path, kind)?;
    let paths = found.iter().flat_map(|found| &found.paths);
    let folders: Option<BTreeSet<&str>> =
        paths.map(|path| first_folder(path).filter(|folder| known(folder).is_some())).collect();
    let split = |folder: &str| known(folder).unwrap_or(WHOLE).to_string();
    Ok(match folders {
        Some(folders) if !folders.is_empty() => {
            folders.into_iter().map(|folder| (split(folder), Some(folder.to_string()))).collect()
        }
        _ => vec![(split(&path.parent().map(name_of).unwrap_or_default()), None)],
    })
}

/// The images `found` in `root` with the labels of the tables beside them or above them, if there are any, and a note
/// if a table labels only some images or none.
///
/// # Errors
///
/// If a table cannot be read or has a label that is no class, if two tables label the images of one folder, or if the
/// class folders say otherwise.
pub(crate) fn with_metadata(
    mut found: FolderIndex,
    root: &Path,
) -> Result<(FolderIndex, Option<String>), DataError> {
    if !root.is_dir() {
        return Ok((found, None));
    }
    let mut tables = Tables::default();
    let rows = found.paths.iter().map(|path| tables.row_of(root, path)).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = rows.iter().flatten().next() else {
        let note = tables.unused(root);
        return Ok((found, note));
    };
    let first_table = tables.all[first.0].path.clone();
    let further = tables.further(root, &found.paths);
    if are_classes(&found) {
        tables.check(root, &found, &rows, &further)?;
        return Ok((found, None));
    }

    let left = rows.iter().filter(|row| row.is_none()).count();
    let note = rows.iter().position(Option::is_none).map(|first| {
        format!(
            "{left} of {} images have no label: they are not in {}; the first is {}",
            rows.len(),
            first_table.display(),
            root.join(&found.paths[first]).display()
        )
    });
    let mut stated = StatedLabels::default();
    for row in &rows {
        stated.push(row.and_then(|row| tables.label(row)));
    }
    for (row, path) in further {
        found.paths.push(path);
        stated.push(tables.label(row));
    }
    let images = found.paths.len();
    // The classes are those of whole tables, so that each split has the same.
    for table in &tables.all {
        (0..table.found.paths.len()).for_each(|row| stated.push(table.found.labels.word(row)));
    }
    let origin = |row: usize| match found.paths.get(row) {
        Some(path) => format!("{}, label of {}", first_table.display(), path.display()),
        None => first_table.display().to_string(),
    };
    let (class_names, mut labels) = stated.classes(origin)?;
    labels.truncate(images);
    (found.class_names, found.labels) = (class_names, labels);
    Ok((found, note))
}

/// Whether the images lie in class folders: a single folder can be one of images.
fn are_classes(found: &FolderIndex) -> bool {
    let used: BTreeSet<u32> = found.labels.iter().flatten().copied().collect();
    used.len() > 1
}

/// A table and a row of it.
type Row = (usize, usize);

/// A table with labels.
struct Table {
    path: PathBuf,
    found: Found,
    /// The row of each path, in [`key`]'s form.
    rows: HashMap<String, usize>,
}

/// The tables met so far.
#[derive(Default)]
struct Tables {
    all: Vec<Table>,
    /// The table in each folder, as an index.
    in_folder: HashMap<PathBuf, Option<usize>>,
}

impl Tables {
    /// The row of the image at `path`, relative to `root`, in the nearest table beside it or above it, up to the folder
    /// that holds `root`.
    fn row_of(&mut self, root: &Path, path: &Path) -> Result<Option<Row>, DataError> {
        for folder in path.ancestors().skip(1) {
            if let Some(table) = self.table_in(&root.join(folder))? {
                let below = path.strip_prefix(folder).unwrap_or(path);
                return Ok(self.all[table].rows.get(&key(below)).map(|row| (table, *row)));
            }
        }
        let (Some(above), Some(name)) = (root.parent(), root.file_name()) else { return Ok(None) };
        let Some(table) = self.table_in(above)? else { return Ok(None) };
        Ok(self.all[table].rows.get(&key(&Path::new(name).join(path))).map(|row| (table, *row)))
    }

    /// The table in `folder`, if there is one with labels.
    fn table_in(&mut self, folder: &Path) -> Result<Option<usize>, DataError> {
        if let Some(known) = self.in_folder.get(folder) {
            return Ok(*known);
        }
        let mut met: Option<usize> = None;
        for (name, _) in TABLES {
            let path = folder.join(name);
            let Some(kind) = path.is_file().then(|| table_kind(&path)).flatten() else { continue };
            let Some(found) = read_metadata(&path, kind)?.filter(|found| found.labelled) else { continue };
            if let Some(other) = met {
                return Err(DataError::Correspondence {
                    origin: folder.display().to_string(),
                    what: format!("{} and {name} both have labels; keep one", name_of(&self.all[other].path)),
                });
            }
            met = Some(self.all.len());
            self.all.push(Table::new(path, found)?);
        }
        self.in_folder.insert(folder.to_path_buf(), met);
        Ok(met)
    }

    fn label(&self, (table, row): Row) -> Option<&str> {
        self.all[table].found.labels.word(row)
    }

    /// What is said of a table in `root` that names none of its images.
    fn unused(&self, root: &Path) -> Option<String> {
        let table = self.all.iter().find(|table| table.path.starts_with(root))?;
        let first = table.found.paths.first()?;
        Some(format!(
            "{} names no image of its folder, so that its labels are not used; its first is {}",
            table.path.display(),
            first.display()
        ))
    }

    /// The rows that name files below `root` that are not among `paths`, and their paths relative to it.
    fn further(&self, root: &Path, paths: &[PathBuf]) -> Vec<(Row, PathBuf)> {
        let mut met: HashSet<String> = paths.iter().map(|path| key(path)).collect();
        let mut further = Vec::new();
        for (at, table) in self.all.iter().enumerate() {
            let folder = table.path.parent().unwrap_or(Path::new(""));
            for (row, path) in table.found.paths.iter().enumerate() {
                let whole = folder.join(path);
                if let Ok(below) = whole.strip_prefix(root)
                    && met.insert(key(below))
                {
                    further.push(((at, row), below.to_path_buf()));
                }
            }
        }
        further
    }

    /// Checks that the tables say of the images `found` in class folders what the folders say.
    fn check(
        &self,
        root: &Path,
        found: &FolderIndex,
        rows: &[Option<Row>],
        further: &[(Row, PathBuf)],
    ) -> Result<(), DataError> {
        let two = |path: &Path, table: usize, what: String| DataError::Correspondence {
            origin: root.join(path).display().to_string(),
            what: format!(
                "{what}; give --data {} to read the table, or rename it to read the folders",
                self.all[table].path.display()
            ),
        };
        for (at, row) in rows.iter().enumerate() {
            let Some((row, class)) = row.zip(found.labels[at]) else { continue };
            let Some(label) = self.label(row) else { continue };
            let folder = &found.class_names[class as usize];
            let same = match (written(label), written(folder)) {
                (Written::Whole(number), Written::Whole(called)) => number == called,
                (Written::Whole(number), _) => number == i64::from(class),
                (Written::Gap, _) => true,
                _ => spelling(label) == spelling(folder),
            };
            if !same {
                let table = name_of(&self.all[row.0].path);
                let what = format!(
                    "its folder says class `{folder}` ({class} in their order), {table} says `{label}`"
                );
                return Err(two(&found.paths[at], row.0, what));
            }
        }
        match further.iter().find(|(_, path)| root.join(path).is_file()) {
            None => Ok(()),
            Some((row, path)) => {
                let table = name_of(&self.all[row.0].path);
                Err(two(path, row.0, format!("{table} names it, but it lies in no class folder")))
            }
        }
    }
}

impl Table {
    /// # Errors
    ///
    /// If it gives one image two labels.
    fn new(path: PathBuf, found: Found) -> Result<Self, DataError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut rows = HashMap::new();
        for (row, file) in found.paths.iter().enumerate() {
            let other = rows.insert(key(file.strip_prefix(folder).unwrap_or(file)), row);
            if let Some(other) = other.filter(|other| found.labels.word(*other) != found.labels.word(row)) {
                return Err(DataError::Correspondence {
                    origin: found.origin(&path, row),
                    what: format!(
                        "{} has another label than in line {}; keep one",
                        file.display(),
                        found.line(other)
                    ),
                });
            }
        }
        Ok(Self { path, found, rows })
    }
}

/// A relative path as text, without `.` and with composed accents: macOS decomposes those of file names.
fn key(path: &Path) -> String {
    let parts = path.components().filter(|part| *part != Component::CurDir);
    let parts: Vec<_> =
        parts.map(|part| part.as_os_str().to_string_lossy().nfc().collect::<String>()).collect();
    parts.join("/")
}
