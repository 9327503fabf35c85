//! The join tokens of a mesh, as the control plane keeps them.
//!
//! A token is for one service, or one agent, and one key. The store holds only a hash of its secret, so a copy of the store mints nobody.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use weft_identity::certificate::hex;
use weft_identity::{JoinToken, MalformedToken};
use weft_model::{Subject, TrustDomain};
use weft_store::{Store, StoreError, Swap};

const FOLDER: &str = "token/";
/// How long the key that redeemed a token may come again, in case the answer to it was lost.
const REPEAT: Duration = Duration::from_secs(60);

/// Why a join token was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not the text of a token.
    #[error(transparent)]
    Malformed(#[from] MalformedToken),
    /// No such token, or its secret is wrong.
    #[error("the join token is unknown to this mesh; make a new one")]
    Unknown,
    /// For somebody else.
    #[error("the join token is for {token}, not for {asked}")]
    OtherService {
        /// Whose token it is.
        token: Subject,
        /// Who came with it.
        asked: Subject,
    },
    /// Its time is over.
    #[error("the join token expired {0} s ago; make a new one")]
    Expired(u64),
    /// Another key was quicker.
    #[error(
        "the join token was used {0} s ago by another key; each start needs a token of its own. If nobody here did that, the token leaked"
    )]
    Used(u64),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the store holds of a token; times are in seconds after the epoch.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// A service or an agent.
    service: Subject,
    secret_hash: String,
    expires: u64,
    used: Option<Use>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Use {
    at: u64,
    key_hash: String,
}

/// The join tokens of a mesh.
#[derive(Clone, Debug)]
pub struct JoinTokens {
    store: Store,
}

impl JoinTokens {
    /// Tokens in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// Makes a token that one instance of `subject` can use once, until `now + ttl`, with the pin of the root that signs. Forgets tokens
    /// that expired long ago.
    pub async fn create(
        &self,
        subject: &Subject,
        pin: [u8; 32],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<JoinToken, TokenError> {
        self.create_naming(subject, pin, None, ttl, now).await
    }

    /// The same, with the trust domain, for a root that does not tell it or that others have too.
    pub async fn create_naming(
        &self,
        subject: &Subject,
        pin: [u8; 32],
        domain: Option<&TrustDomain>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<JoinToken, TokenError> {
        let token = match domain {
            Some(domain) => JoinToken::new(pin).of(domain.clone()),
            None => JoinToken::new(pin),
        };
        let record = Record {
            service: subject.clone(),
            secret_hash: token.secret_hash(),
            expires: seconds(now + ttl),
            used: None,
        };
        self.store.put(&key_of(&token), encode(&record)).await?;
        self.forget_expired(now).await?;
        Ok(token)
    }

    /// Uses a token up for the holder of the key with this hash. Of several keys that come at once exactly one succeeds; the same
    /// key may come again for a minute.
    ///
    /// A token that is refused here for another reason than [`TokenError::Used`] is not used up.
    pub async fn redeem(
        &self,
        token: &JoinToken,
        subject: &Subject,
        key_hash: &[u8; 32],
        now: SystemTime,
    ) -> Result<(), TokenError> {
        let (key, key_hash, now) = (key_of(token), hex(key_hash), seconds(now));
        loop {
            let entry = self.store.get(&key).await?.ok_or(TokenError::Unknown)?;
            let mut record: Record = serde_json::from_slice(&entry.value).map_err(|_| TokenError::Unknown)?;
            let secret_hash = token.secret_hash();
            if verify_slices_are_equal(secret_hash.as_bytes(), record.secret_hash.as_bytes()).is_err() {
                return Err(TokenError::Unknown);
            }
            if record.service != *subject {
                return Err(TokenError::OtherService { token: record.service, asked: subject.clone() });
            }
            if let Some(used) = &record.used {
                let ago = now.saturating_sub(used.at);
                let again = used.key_hash == key_hash && ago <= REPEAT.as_secs();
                return if again { Ok(()) } else { Err(TokenError::Used(ago)) };
            }
            if now >= record.expires {
                return Err(TokenError::Expired(now - record.expires));
            }
            record.used = Some(Use { at: now, key_hash: key_hash.clone() });
            match self.store.compare_and_swap(&key, Some(entry.revision), Some(encode(&record))).await? {
                Swap::Done(_) => return Ok(()),
                Swap::Conflict(_) => {} // somebody was quicker: look who
            }
        }
    }

    /// A token stays for a day after its end, so that whoever comes with it late or twice is told why it is refused.
    async fn forget_expired(&self, now: SystemTime) -> Result<(), TokenError> {
        const DAY: u64 = 24 * 3600;
        for (key, entry) in self.store.list(FOLDER).await? {
            let expires = serde_json::from_slice::<Record>(&entry.value).map_or(0, |record| record.expires);
            if expires + DAY < seconds(now) {
                self.store.compare_and_swap(&key, Some(entry.revision), None).await?;
            }
        }
        Ok(())
    }
}

fn key_of(token: &JoinToken) -> String {
    FOLDER.to_owned() + &token.id()
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("strings and numbers are JSON")
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;

    use super::*;

    struct Bench {
        _folder: tempfile::TempDir,
        store: Store,
        tokens: JoinTokens,
        board: Subject,
        now: SystemTime,
    }

    fn bench() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let tokens = JoinTokens::new(store.clone());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Bench { _folder: folder, store, tokens, board: "prod/board".parse().unwrap(), now }
    }

    const TTL: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn of_many_keys_that_come_at_once_exactly_one_gets_in() {
        let Bench { _folder, tokens, board, now, .. } = bench();
        let token = tokens.create(&board, [7; 32], TTL, now).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for key in 0..32u8 {
            let (tokens, token, board) = (tokens.clone(), token.clone(), board.clone());
            tasks.spawn(async move { tokens.redeem(&token, &board, &[key; 32], now).await });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(results.iter().filter_map(|result| result.as_ref().err()).all(|e| matches!(e, TokenError::Used(0))));
    }

    #[tokio::test]
    async fn the_key_that_redeemed_may_come_again_for_a_minute_and_no_other() {
        let Bench { _folder, tokens, board, now, .. } = bench();
        let token = tokens.create(&board, [7; 32], TTL, now).await.unwrap();
        let later = now + Duration::from_secs(60);
        tokens.redeem(&token, &board, &[1; 32], now).await.unwrap();
        tokens.redeem(&token, &board, &[1; 32], later).await.unwrap();
        let other = tokens.redeem(&token, &board, &[2; 32], later).await;
        assert!(matches!(other, Err(TokenError::Used(60))));
        let late = tokens.redeem(&token, &board, &[1; 32], later + Duration::from_secs(1)).await;
        assert!(matches!(late, Err(TokenError::Used(61))));
    }

    #[tokio::test]
    async fn a_wrong_service_secret_or_time_is_refused_and_does_not_use_the_token_up() {
        let Bench { _folder, tokens, board, now, store } = bench();
        let token = tokens.create(&board, [7; 32], TTL, now).await.unwrap();
        let web: Subject = "prod/web".parse().unwrap();
        let wrong_service = tokens.redeem(&token, &web, &[1; 32], now).await.unwrap_err().to_string();
        assert_eq!(wrong_service, "the join token is for prod/board, not for prod/web");
        let text = token.text();
        for at in [5, 40] {
            // The first character of the id, and one of the secret.
            let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
            let forged: JoinToken = (text[..at].to_owned() + other + &text[at + 1..]).parse().unwrap();
            assert!(matches!(tokens.redeem(&forged, &board, &[1; 32], now).await, Err(TokenError::Unknown)));
        }
        assert!(matches!(tokens.redeem(&token, &board, &[1; 32], now + TTL).await, Err(TokenError::Expired(0))));
        tokens.redeem(&token, &board, &[1; 32], now + TTL - Duration::from_secs(1)).await.unwrap();
        for (key, entry) in store.list("").await.unwrap() {
            let secret = &BASE64.decode(&token.text()["weft.".len()..]).unwrap()[16..48];
            assert!(!entry.value.windows(32).any(|window| window == secret), "{key} holds the secret");
        }
    }

    #[tokio::test]
    async fn tokens_that_expired_long_ago_are_forgotten() {
        let Bench { _folder, tokens, board, now, store } = bench();
        let old = tokens.create(&board, [7; 32], TTL, now).await.unwrap();
        tokens.create(&board, [7; 32], TTL, now + TTL + Duration::from_secs(24 * 3600 + 1)).await.unwrap();
        assert_eq!(store.list(FOLDER).await.unwrap().len(), 1);
        assert!(matches!(tokens.redeem(&old, &board, &[1; 32], now).await, Err(TokenError::Unknown)));
    }
}
