//! The payload of a page: the bare records of some events, one behind the other, compressed.

use super::codec::{self, Damaged, Kind};

/// No page unpacks to more: 256 MiB.
const PACKED_MAX: usize = 256 << 20;

/// Packs the bare records of events into the payload of a page.
pub fn pack(payload: &mut Vec<u8>, record: &[u8]) {
    let length = u32::try_from(record.len()).expect("a record is smaller than 64 MiB");
    payload.extend(length.to_le_bytes());
    payload.extend(record);
}

/// Seals the packed records of a page, compressed (LZ4 block format): bodies of one time are alike, and whatever sled
/// does not have to write several times is time that an acknowledgement does not wait.
pub fn seal_page(packed: &[u8]) -> Vec<u8> {
    codec::seal(Kind::Page, &lz4_flex::compress_prepend_size(packed))
}

/// The packed records of a sealed page.
pub fn open_page(sealed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let compressed = codec::open(Kind::Page, sealed)?;
    let (length, block) = lz4_flex::block::uncompressed_size(compressed).map_err(|_| Damaged::Content)?;
    if length > PACKED_MAX {
        return Err(Damaged::Content);
    }
    lz4_flex::decompress(block, length).map_err(|_| Damaged::Content)
}

/// The bare records in the packed records of a page.
pub fn unpack(packed: &[u8]) -> Result<Vec<&[u8]>, Damaged> {
    let mut rest = packed;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, behind) = rest.split_at_checked(4).ok_or(Damaged::Content)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes were split off"));
        let (record, behind) = behind.split_at_checked(length as usize).ok_or(Damaged::Content)?;
        records.push(record);
        rest = behind;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_round_trips_and_refuses_invalid_bytes() {
        let mut payload = Vec::new();
        for record in [b"one".as_slice(), b"", b"three"] {
            pack(&mut payload, record);
        }
        let sealed = seal_page(&payload);
        assert_eq!(open_page(&sealed).unwrap(), payload);
        assert_eq!(unpack(&payload).unwrap(), [b"one".as_slice(), b"", b"three"]);
        for n in [1, 5, payload.len() - 1] {
            assert!(unpack(&payload[..n]).is_err());
        }
        let bomb = [u32::MAX.to_le_bytes().as_slice(), b"x"].concat();
        assert_eq!(open_page(&codec::seal(Kind::Page, &bomb)), Err(Damaged::Content));
    }
}
