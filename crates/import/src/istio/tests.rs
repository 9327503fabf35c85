use crate::Input;

mod decisions;
mod fields;
mod original;
mod whole;

/// One file of documents.
fn file(text: impl Into<String>) -> Vec<Input> {
    vec![Input { path: "istio.yaml".into(), text: text.into() }]
}
