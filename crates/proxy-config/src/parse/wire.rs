//! Finds what decoding dropped. Protobuf decoders skip the fields that they do not know; comparing the bytes with those
//! of the decoded message, encoded again, shows them.
//!
//! No schema is needed: both are read as trees of numbered fields. What reads as a message but is a text is the same on
//! both sides, so the guess does no harm.

use std::collections::BTreeMap;

/// Deeper messages do not decode at all (prost's limit is 100).
const MAX_DEPTH: usize = 100;

/// The number (`3.7`: field 7 of the message in field 3) of a field in `original` that is missing in `again`, the
/// encoding of what was decoded from it. Another order of fields, and of the entries of a map, is no difference.
pub(crate) fn dropped_field(original: &[u8], again: &[u8]) -> Option<String> {
    if original == again || canonical(original, 0) == canonical(again, 0) {
        return None;
    }
    Some(missing(original, again, 0).unwrap_or_else(|| "(unknown)".to_owned()))
}

type Fields<'a> = BTreeMap<u64, Vec<Value<'a>>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The same bytes for every encoding of the same tree: fields by number, and repeated ones sorted.
fn canonical(bytes: &[u8], depth: usize) -> Vec<u8> {
    let Some(fields) = fields(bytes).filter(|_| depth <= MAX_DEPTH) else { return bytes.to_vec() };
    // An entry of a map: some encoders write an empty key or value, others leave it out.
    let entry = fields.iter().all(|(number, values)| (1..=2).contains(number) && values.len() == 1);
    let mut text = Vec::with_capacity(bytes.len() + 16);
    for (number, values) in fields {
        let mut values: Vec<_> = values
            .into_iter()
            .filter(|value| !(entry && matches!(value, Value::Number(0) | Value::Bytes([]))))
            .map(|value| value.canonical(depth))
            .collect();
        values.sort_unstable();
        for value in values {
            text.extend(number.to_be_bytes());
            text.extend(value.len().to_be_bytes());
            text.extend(value);
        }
    }
    text
}

impl Value<'_> {
    fn canonical(self, depth: usize) -> Vec<u8> {
        match self {
            Value::Number(number) => number.to_be_bytes().to_vec(),
            Value::Bytes(bytes) => canonical(bytes, depth + 1),
        }
    }
}

/// Names a difference that is known to exist; the best guess where lists differ in more than one entry, and always the same.
fn missing(original: &[u8], again: &[u8], depth: usize) -> Option<String> {
    let (original, again) = (fields(original)?, fields(again)?);
    let short = |(number, values): &(&u64, &Vec<_>)| values.len() > again.get(number).map_or(0, Vec::len);
    if let Some((number, _)) = original.iter().find(short) {
        return Some(number.to_string());
    }
    original.iter().filter(|_| depth < MAX_DEPTH).find_map(|(number, values)| {
        let (given, kept) = (sorted(values, depth), sorted(&again[number], depth));
        let bytes = without(&given, &kept).zip(without(&kept, &given)).filter_map(|pair| match pair {
            (Value::Bytes(given), Value::Bytes(kept)) => Some((given, kept)),
            _ => None,
        });
        let mut inner = bytes.filter_map(|(given, kept)| missing(given, kept, depth + 1));
        inner.next().map(|inner| format!("{number}.{inner}"))
    })
}

/// Values with their canonical bytes, in the order of these.
fn sorted<'a>(values: &[Value<'a>], depth: usize) -> Vec<(Vec<u8>, Value<'a>)> {
    let mut sorted: Vec<_> = values.iter().map(|value| (value.canonical(depth), *value)).collect();
    sorted.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    sorted
}

/// What `some` has and `others` has not.
fn without<'a>(some: &[(Vec<u8>, Value<'a>)], others: &[(Vec<u8>, Value<'a>)]) -> impl Iterator<Item = Value<'a>> {
    let in_others = |bytes: &Vec<u8>| others.binary_search_by(|(other, _)| other.cmp(bytes)).is_ok();
    some.iter().filter(move |(bytes, _)| !in_others(bytes)).map(|(_, value)| *value)
}

/// The fields of a message by number; `None` if these bytes are no message.
fn fields(mut bytes: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Number(u64::from_le_bytes(split(&mut bytes, 8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(split(&mut bytes, length)?)
            }
            5 => Value::Number(u32::from_le_bytes(split(&mut bytes, 4)?.try_into().ok()?).into()),
            _ => return None,
        };
        fields.entry(key >> 3).or_default().push(value);
    }
    Some(fields)
}

fn split<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(length)?;
    *bytes = tail;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = split(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn text(value: &str) -> PbValue {
        PbValue { kind: Some(Kind::StringValue(value.to_owned())) }
    }

    #[test]
    fn the_order_of_a_map_is_no_difference() {
        let keys: Vec<String> = (0..20).map(|n| format!("key{n}")).collect();
        let one = |keys: &[String]| {
            let mut bytes = Vec::new();
            for key in keys {
                let fields = HashMap::from([(key.clone(), text("x"))]);
                bytes.extend(Struct { fields }.encode_to_vec());
            }
            bytes
        };
        let turned: Vec<String> = keys.iter().rev().cloned().collect();
        assert_eq!(dropped_field(&one(&keys), &one(&turned)), None);
        assert_eq!(dropped_field(&one(&keys), &one(&turned[1..])), Some("1".to_owned()));
    }

    #[test]
    fn an_explicit_empty_value_of_a_map_entry_is_no_difference() {
        // field 1 { 1: "a", 2: "" } against field 1 { 1: "a" }
        assert_eq!(dropped_field(&[0x0a, 5, 0x0a, 1, b'a', 0x12, 0], &[0x0a, 3, 0x0a, 1, b'a']), None);
    }

    #[test]
    fn an_unknown_field_is_found_wherever_it_stands() {
        // field 3 { 1: 1, 7: 1 } against field 3 { 1: 1 }
        assert_eq!(dropped_field(&[0x1a, 4, 0x08, 1, 0x38, 1], &[0x1a, 2, 0x08, 1]), Some("3.7".to_owned()));
        // An empty message can switch something on.
        assert_eq!(dropped_field(&[0x08, 1, 0x3a, 0], &[0x08, 1]), Some("7".to_owned()));
    }

    /// A map is encoded in another order each time, so entries that stand at the same place need not be the same entry.
    #[test]
    fn an_unknown_field_of_a_map_entry_is_found_in_whatever_order() {
        // field 1 { 1: key, 2 { 3: "x" } }, and one entry with a 9: 1 beside the 3
        let entry = |key| [0x0a, 8, 0x0a, 1, key, 0x12, 3, 0x1a, 1, b'x'];
        let more = [0x0a, 10, 0x0a, 1, b'm', 0x12, 5, 0x1a, 1, b'x', 0x48, 1];
        let original = [&entry(b'a')[..], &more, &entry(b'z')].concat();
        for order in [b"amz", b"azm", b"mza", b"zma"] {
            let again: Vec<u8> = order.iter().flat_map(|key| entry(*key)).collect();
            assert_eq!(dropped_field(&original, &again), Some("1.2.9".to_owned()));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(a: Vec<u8>, b: Vec<u8>) {
            prop_assert_eq!(dropped_field(&a, &a), None);
            let _ = dropped_field(&a, &b);
        }
    }
}
