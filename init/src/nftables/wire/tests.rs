//! What is written can be read; what is read never panics.

use proptest::prelude::*;

use super::*;

#[test]
fn written_messages_are_read_back() {
    let mut writer = Writer::default();
    writer.message(7, 1, 42, [2, 0, 0, 0], |w| {
        w.string(1, "weir");
        w.nested(4, |w| w.number(2, 0x0102_0304));
    });
    writer.message(8, 1, 43, [2, 0, 0, 0], |w| w.attribute(9, &[1, 2, 3]));
    let bytes = writer.into_bytes();

    let read: Vec<Message<'_>> = messages(&bytes).collect();
    assert_eq!(
        read.iter()
            .map(|message| (message.kind, message.sequence))
            .collect::<Vec<_>>(),
        [(7, 42), (8, 43)]
    );
    let found: Vec<(u16, &[u8])> = attributes(&read[0].payload[GENERIC..]).collect();
    assert_eq!(found[0], (1, &b"weir\0"[..]));
    assert_eq!(text(found[0].1), "weir");
    assert_eq!(found[1].0, 4, "the nested flag is not part of the type");
    assert_eq!(
        attributes(found[1].1).collect::<Vec<_>>(),
        [(2, &[1, 2, 3, 4][..])]
    );
    assert_eq!(
        attributes(&read[1].payload[GENERIC..]).collect::<Vec<_>>(),
        [(9, &[1, 2, 3][..])]
    );
}

#[test]
fn a_length_that_does_not_fit_ends_the_reading() {
    for length in [0_u32, 15, 17, u32::MAX] {
        let mut bytes = [0_u8; 16];
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(messages(&bytes).count(), 0, "message of length {length}");
    }
    for length in [0_u16, 3, 5, u16::MAX] {
        let mut bytes = [0_u8; 4];
        bytes[..2].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(attributes(&bytes).count(), 0, "attribute of length {length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let mut read = 0;
        for message in messages(&bytes) {
            read += HEADER + message.payload.len();
            attributes(message.payload).for_each(|(_, value)| drop(text(value)));
        }
        prop_assert!(read <= bytes.len());
        let values: usize = attributes(&bytes).map(|(_, value)| ATTRIBUTE + value.len()).sum();
        prop_assert!(values <= bytes.len());
    }
}
