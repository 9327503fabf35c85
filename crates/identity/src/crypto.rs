//! The one crypto provider of the mesh.

use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;

/// The one crypto provider of the mesh: aws-lc, X25519MLKEM768 first.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}
