//! Where the control plane's ext_authz is: told to the control plane, which writes it into the data plane's configuration.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::app_address::AppAddress;
use super::introduction::Introduction;

/// Between two looks at what a name stands for.
const LOOK: Duration = Duration::from_secs(5);

/// Its address now; `None` for a name that has none yet.
pub(crate) async fn find(server: Option<&AppAddress>) -> Option<SocketAddr> {
    server?.first().await
}

/// Tells of another address of its name, for ever.
pub(crate) async fn follow(server: Option<AppAddress>, introduction: Introduction) {
    let Some(server @ AppAddress::Name(..)) = server else { return };
    loop {
        sleep(LOOK).await;
        // A resolver that is away says nothing about the server.
        let Some(found) = server.first().await else { continue };
        if introduction.agent().authz != Some(found) {
            tracing::info!(server = %server, address = %found, "the authorization server is at another address of its name");
            introduction.update(|agent| agent.authz = Some(found));
        }
    }
}
