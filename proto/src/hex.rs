//! Lower-case hexadecimal, the text form of every digest.

/// Writes `bytes` as two lower-case digits each.
pub fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Reads hexadecimal digits of either case; `None` if the length is odd or a digit is not one.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// Reads exactly `N` bytes; `None` on any other length or a bad digit.
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    (text.len() == 2 * N).then(|| decode(text)).flatten()?.try_into().ok()
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_text() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)), Some(all.clone()));
        assert_eq!(decode(&encode(&all).to_uppercase()), Some(all));
    }

    #[test]
    fn what_is_not_hexadecimal_is_refused() {
        for bad in ["a", "0g", "é0", "0x"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
        assert_eq!(decode_array::<4>("001122"), None);
    }
}
