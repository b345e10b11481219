//! Conversion of a stored number to a class.

/// The label that `datasets` writes if a test set's labels are secret.
const UNLABELLED: i64 = -1;

/// A stored label as a class among `classes` (0: their number is unknown), or the label and the valid range.
pub(crate) fn class_of(label: Option<i64>, classes: usize) -> Result<Option<u32>, (i64, String)> {
    match label {
        None | Some(UNLABELLED) => Ok(None),
        Some(label) => match u32::try_from(label) {
            Ok(class) if classes == 0 || (class as usize) < classes => Ok(Some(class)),
            _ if classes == 0 => Err((label, "0 or more".into())),
            _ => Err((label, format!("0 to {}", classes - 1))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_lie_in_range_or_are_absent() {
        assert_eq!(class_of(Some(9), 10), Ok(Some(9)));
        assert_eq!(class_of(Some(9), 0), Ok(Some(9)));
        assert_eq!(class_of(Some(-1), 10), Ok(None));
        assert_eq!(class_of(None, 10), Ok(None));
        assert_eq!(class_of(Some(10), 10), Err((10, "0 to 9".into())));
        assert_eq!(class_of(Some(-2), 0), Err((-2, "0 or more".into())));
        assert!(class_of(Some(i64::MAX), 0).is_err());
    }
}
