//! Values as bytes, little-endian.

/// The bytes are not those of a value of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// A value that travels between ranks.
pub trait Wire: Sized {
    /// Appends the value to `into`.
    fn put(&self, into: &mut Vec<u8>);

    /// Takes a value from the beginning of `from`.
    ///
    /// # Errors
    /// If there is none.
    fn take(from: &mut &[u8]) -> Result<Self, Damaged>;

    /// The value as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    /// The value that `bytes` are.
    ///
    /// # Errors
    /// If they are none, or more than one.
    fn from_bytes(mut bytes: &[u8]) -> Result<Self, Damaged> {
        let value = Self::take(&mut bytes)?;
        if bytes.is_empty() { Ok(value) } else { Err(Damaged) }
    }
}

/// The next `count` bytes of `from`.
fn next<'a>(from: &mut &'a [u8], count: usize) -> Result<&'a [u8], Damaged> {
    from.split_off(..count).ok_or(Damaged)
}

/// A number of things that follow; each has at least one byte, unless it has none at all.
fn count(from: &mut &[u8]) -> Result<usize, Damaged> {
    usize::try_from(u64::take(from)?).map_err(|_| Damaged)
}

/// Numbers, and lists of them, which are copied as a whole.
macro_rules! numbers {
    ($($number:ty),+) => {$(
        impl Wire for $number {
            fn put(&self, into: &mut Vec<u8>) {
                into.extend_from_slice(&self.to_le_bytes());
            }

            fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
                let (bytes, rest) = from.split_first_chunk().ok_or(Damaged)?;
                *from = rest;
                Ok(<$number>::from_le_bytes(*bytes))
            }
        }

        impl Wire for Vec<$number> {
            fn put(&self, into: &mut Vec<u8>) {
                (self.len() as u64).put(into);
                let start = into.len();
                into.resize(start + size_of_val(self.as_slice()), 0);
                for (bytes, value) in into[start..].chunks_exact_mut(size_of::<$number>()).zip(self) {
                    bytes.copy_from_slice(&value.to_le_bytes());
                }
            }

            fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
                let length = count(from)?.checked_mul(size_of::<$number>()).ok_or(Damaged)?;
                let (numbers, _) = next(from, length)?.as_chunks();
                Ok(numbers.iter().map(|bytes| <$number>::from_le_bytes(*bytes)).collect())
            }
        }
    )+};
}

numbers!(u8, u32, u64, f32, f64);

/// Lists of anything else.
macro_rules! lists {
    ($($of:ty),+) => {$(
        impl Wire for Vec<$of> {
            fn put(&self, into: &mut Vec<u8>) {
                put_list(self, into);
            }

            fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
                take_list(from)
            }
        }
    )+};
}

lists!(bool, usize, String, Vec<f32>, Vec<f64>);

/// Appends a list of values.
pub(crate) fn put_list<T: Wire>(list: &[T], into: &mut Vec<u8>) {
    (list.len() as u64).put(into);
    list.iter().for_each(|value| value.put(into));
}

/// Takes a list of values.
pub(crate) fn take_list<T: Wire>(from: &mut &[u8]) -> Result<Vec<T>, Damaged> {
    // Without room for as many as are stated: that number may be damaged.
    (0..count(from)?).map(|_| T::take(from)).collect()
}

impl Wire for () {
    fn put(&self, _: &mut Vec<u8>) {}

    fn take(_: &mut &[u8]) -> Result<Self, Damaged> {
        Ok(())
    }
}

impl Wire for usize {
    fn put(&self, into: &mut Vec<u8>) {
        (*self as u64).put(into);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        count(from)
    }
}

impl Wire for bool {
    fn put(&self, into: &mut Vec<u8>) {
        u8::from(*self).put(into);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Damaged),
        }
    }
}

impl Wire for String {
    fn put(&self, into: &mut Vec<u8>) {
        (self.len() as u64).put(into);
        into.extend_from_slice(self.as_bytes());
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        let length = count(from)?;
        String::from_utf8(next(from, length)?.to_vec()).map_err(|_| Damaged)
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, into: &mut Vec<u8>) {
        self.is_some().put(into);
        if let Some(value) = self {
            value.put(into);
        }
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        bool::take(from)?.then(|| T::take(from)).transpose()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, into: &mut Vec<u8>) {
        self.0.put(into);
        self.1.put(into);
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        Ok((A::take(from)?, B::take(from)?))
    }
}
