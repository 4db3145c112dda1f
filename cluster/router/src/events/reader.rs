//! Reads MessagePack from bytes that nobody vouches for.
//!
//! Owns the format and the position, and knows nothing of events. Values are not built: they are stepped over or read
//! where they lie.

use rmp::Marker;

/// A position in a payload, up to an end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Where the rest ends in the payload.
    end: usize,
}

/// Why bytes could not be read as what they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end before the value that begins here does.
    Truncated { at: usize },
    /// No value begins with this byte.
    Reserved { at: usize },
    /// The value here is another one than it has to be.
    Unexpected { at: usize },
}

/// How a value begins; all of it, if it has neither contents nor members.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Head {
    Nil,
    Bool,
    Uint(u64),
    /// Below zero.
    Negative(i64),
    Float(f64),
    /// Bytes of text that follow.
    Text(usize),
    /// Bytes that follow.
    Binary(usize),
    /// Bytes of an extension that follow.
    Extension(usize),
    /// Values that follow.
    Array(usize),
    /// Pairs of values that follow.
    Map(usize),
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload, end: payload.len() }
    }

    /// Where it is in the payload.
    pub(super) fn at(&self) -> usize {
        self.end - self.rest.len()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads how the next value begins. What it says about its length is true of the bytes that are there: each
    /// member takes at least one.
    #[inline]
    pub(super) fn head(&mut self) -> Result<Head, Fault> {
        let begin = *self;
        let head = self.head_within().map_err(|fault| match fault {
            Fault::Truncated { .. } => Fault::Truncated { at: begin.at() },
            other => other,
        })?;
        let bytes_min = match head {
            Head::Text(len) | Head::Binary(len) | Head::Extension(len) | Head::Array(len) => len,
            Head::Map(len) => len.saturating_mul(2),
            _ => 0,
        };
        if bytes_min > self.rest.len() {
            return Err(Fault::Truncated { at: begin.at() });
        }
        Ok(head)
    }

    #[inline]
    fn head_within(&mut self) -> Result<Head, Fault> {
        let at = self.at();
        let [marker] = self.bytes()?;
        Ok(match Marker::from_u8(marker) {
            Marker::Null => Head::Nil,
            Marker::True | Marker::False => Head::Bool,
            Marker::FixPos(value) => Head::Uint(u64::from(value)),
            Marker::U8 => Head::Uint(u64::from(u8::from_be_bytes(self.bytes()?))),
            Marker::U16 => Head::Uint(u64::from(u16::from_be_bytes(self.bytes()?))),
            Marker::U32 => Head::Uint(u64::from(u32::from_be_bytes(self.bytes()?))),
            Marker::U64 => Head::Uint(u64::from_be_bytes(self.bytes()?)),
            Marker::FixNeg(value) => Head::signed(i64::from(value)),
            Marker::I8 => Head::signed(i64::from(i8::from_be_bytes(self.bytes()?))),
            Marker::I16 => Head::signed(i64::from(i16::from_be_bytes(self.bytes()?))),
            Marker::I32 => Head::signed(i64::from(i32::from_be_bytes(self.bytes()?))),
            Marker::I64 => Head::signed(i64::from_be_bytes(self.bytes()?)),
            Marker::F32 => Head::Float(f64::from(f32::from_be_bytes(self.bytes()?))),
            Marker::F64 => Head::Float(f64::from_be_bytes(self.bytes()?)),
            Marker::FixStr(len) => Head::Text(usize::from(len)),
            Marker::Str8 => Head::Text(self.len::<1>()?),
            Marker::Str16 => Head::Text(self.len::<2>()?),
            Marker::Str32 => Head::Text(self.len::<4>()?),
            Marker::Bin8 => Head::Binary(self.len::<1>()?),
            Marker::Bin16 => Head::Binary(self.len::<2>()?),
            Marker::Bin32 => Head::Binary(self.len::<4>()?),
            Marker::FixArray(len) => Head::Array(usize::from(len)),
            Marker::Array16 => Head::Array(self.len::<2>()?),
            Marker::Array32 => Head::Array(self.len::<4>()?),
            Marker::FixMap(len) => Head::Map(usize::from(len)),
            Marker::Map16 => Head::Map(self.len::<2>()?),
            Marker::Map32 => Head::Map(self.len::<4>()?),
            // An extension has one byte for its kind besides.
            Marker::FixExt1 => Head::Extension(2),
            Marker::FixExt2 => Head::Extension(3),
            Marker::FixExt4 => Head::Extension(5),
            Marker::FixExt8 => Head::Extension(9),
            Marker::FixExt16 => Head::Extension(17),
            Marker::Ext8 => Head::Extension(self.len::<1>()?.saturating_add(1)),
            Marker::Ext16 => Head::Extension(self.len::<2>()?.saturating_add(1)),
            Marker::Ext32 => Head::Extension(self.len::<4>()?.saturating_add(1)),
            Marker::Reserved => return Err(Fault::Reserved { at }),
        })
    }

    /// Steps over the next value and gives it to be read apart. However deep it is, it takes no more memory.
    #[inline]
    pub(super) fn value(&mut self) -> Result<Self, Fault> {
        let begin = *self;
        // No length exceeds the payload's, and there are no more of them than it has bytes: the sum cannot overflow.
        let mut pending = 1_usize;
        while pending > 0 {
            pending -= 1;
            match self.head()? {
                Head::Text(len) | Head::Binary(len) | Head::Extension(len) => {
                    self.take(len)?;
                }
                Head::Array(len) => pending += len,
                Head::Map(len) => pending += 2 * len,
                _ => {}
            }
        }
        let len = begin.rest.len() - self.rest.len();
        Ok(Self { rest: &begin.rest[..len], end: begin.at() + len })
    }

    /// Reads the length of an array.
    pub(super) fn array(&mut self) -> Result<usize, Fault> {
        let at = self.at();
        match self.head()? {
            Head::Array(len) => Ok(len),
            _ => Err(Fault::Unexpected { at }),
        }
    }

    /// Reads text, as bytes.
    pub(super) fn text(&mut self) -> Result<&'a [u8], Fault> {
        let at = self.at();
        match self.head()? {
            Head::Text(len) => self.take(len),
            _ => Err(Fault::Unexpected { at }),
        }
    }

    /// Reads a number that has to fit.
    #[inline]
    pub(super) fn uint32(&mut self) -> Result<u32, Fault> {
        let at = self.at();
        match self.head()? {
            Head::Uint(value) => u32::try_from(value).map_err(|_| Fault::Unexpected { at }),
            _ => Err(Fault::Unexpected { at }),
        }
    }

    /// Reads so many bytes.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let at = self.at();
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(Fault::Truncated { at })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn is_nil(&self) -> bool {
        self.rest.first().is_some_and(|marker| *marker == Marker::Null.to_u8())
    }

    #[inline]
    fn bytes<const LEN: usize>(&mut self) -> Result<[u8; LEN], Fault> {
        let at = self.at();
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Fault::Truncated { at })?;
        self.rest = rest;
        Ok(*bytes)
    }

    /// Reads a length of so many bytes.
    #[inline]
    fn len<const LEN: usize>(&mut self) -> Result<usize, Fault> {
        let bytes: [u8; LEN] = self.bytes()?;
        Ok(bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)))
    }
}

impl Head {
    #[inline]
    fn signed(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Negative(value), Self::Uint)
    }
}
