//! A UUID as its 36 characters and as the two little-endian halves v1 knows it by.

/// The halves of a textual UUID; `None` unless it is 36 bytes with hex digits where
/// they belong. As in Go, what separates the digits is not looked at.
pub(crate) fn halves(text: &[u8]) -> Option<(u64, u64)> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let mut bytes = [0; 16];
    for (byte, at) in bytes.iter_mut().zip(DIGITS) {
        *byte = digit(text[at])? << 4 | digit(text[at + 1])?;
    }
    let value = u128::from_le_bytes(bytes);
    Some((value as u64, (value >> 64) as u64))
}

/// The textual form, in lower case.
pub(crate) fn text(low: u64, high: u64) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    for (byte, at) in bytes.into_iter().zip(DIGITS) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
    }
    text
}

/// Where the two digits of each byte are.
const DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_is_little_endian() {
        let (low, high) = halves(b"01020304-0506-0708-090a-0B0C0D0E0F10").unwrap();
        assert_eq!(low, 0x0807_0605_0403_0201);
        assert_eq!(high, 0x100f_0e0d_0c0b_0a09);
        assert_eq!(&text(low, high), b"01020304-0506-0708-090a-0b0c0d0e0f10");
    }

    #[test]
    fn only_thirty_six_bytes_of_hex_are_a_uuid() {
        assert_eq!(halves(b""), None);
        assert_eq!(halves(b"0102030405060708090a0b0c0d0e0f10"), None);
        assert_eq!(halves(b"g1020304-0506-0708-090a-0b0c0d0e0f10"), None);
        assert_eq!(
            halves(b"01020304x0506x0708x090ax000000000000").map(|(low, _)| low as u8),
            Some(1)
        );
    }
}
