//! Ranges of bytes as HTTP asks for them (RFC 9110, section 14): one, of bytes. What else there may be asked for is allowed to be ignored.

/// What a range asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// From this byte on, so many at most.
    From(u64, Option<u64>),
    /// So many last bytes.
    Last(u64),
}

impl Range {
    /// Reads the header; none where it is not one range of bytes.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (first, last) = header.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
        let number = |text: &str| {
            (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
        };
        match (first.trim(), last.trim()) {
            ("", last) => number(last).map(Self::Last),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last): (u64, u64) = (number(first)?, number(last)?);
                (first <= last).then(|| Self::From(first, Some((last - first).saturating_add(1))))
            }
        }
    }

    /// Where it begins in a file of this size and how many bytes it has; none where it has none.
    pub(super) fn of(self, size: u64) -> Option<(u64, u64)> {
        let (from, length) = match self {
            Self::From(from, length) => (from, length.unwrap_or(u64::MAX)),
            Self::Last(length) => (size.saturating_sub(length), length),
        };
        (from < size && length > 0).then(|| (from, length.min(size - from)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_the_standard_says() {
        for (header, size, meant) in [
            ("bytes=0-0", 10, Some(Some((0, 1)))),
            ("bytes=2-", 10, Some(Some((2, 8)))),
            ("bytes=2-100", 10, Some(Some((2, 8)))),
            ("bytes=-3", 10, Some(Some((7, 3)))),
            ("bytes=-30", 10, Some(Some((0, 10)))),
            ("bytes=10-", 10, Some(None)),
            ("bytes=-0", 10, Some(None)),
            ("bytes=0-", 0, Some(None)),
            ("bytes=0-18446744073709551615", 10, Some(Some((0, 10)))),
            ("bytes=0-18446744073709551616", 10, None),
            ("bytes=3-2", 10, None),
            ("bytes=0-1,4-5", 10, None),
            ("bytes=", 10, None),
            ("bytes=-", 10, None),
            ("bytes=+1-", 10, None),
            ("lines=1-2", 10, None),
        ] {
            assert_eq!(Range::parse(header).map(|range| range.of(size)), meant, "{header}");
        }
    }
}
