//! What a person is told about a local mesh while it runs.

use std::time::Duration;

use anyhow::Result;
use weft_control::status::{ChangeState, MeshStatus};

use super::mesh::LocalMesh;
use crate::output::table;

const LOOK: Duration = Duration::from_millis(500);

/// Ports, services, and what to try.
pub(crate) fn describe(mesh: &LocalMesh) -> String {
    let rows: Vec<_> = mesh
        .members
        .iter()
        .map(|member| {
            let data_plane = match member.data_plane {
                crate::sidecar::DataPlane::Weft => "weft",
                crate::sidecar::DataPlane::Envoy => "envoy",
            };
            vec![
                member.name.clone(),
                member.app.service.to_string(),
                member.egress.to_string(),
                member.ingress.to_string(),
                member.admin.to_string(),
                data_plane.to_owned(),
            ]
        })
        .collect();
    let mut text =
        format!("\n{}\n", table(&["APP", "SERVICE", "EGRESS", "INGRESS (mTLS)", "ADMIN", "DATA PLANE"], &rows));
    text += &format!("dashboard  http://{}/\n", mesh.http);
    text += &format!("status     {} status --server {}\n", program(), mesh.http);
    text += &format!("denials    {} logs --denied {}\n", program(), mesh.folder().display());
    let copy = if mesh.repo.is_copy() { " (a copy: edit it, commit, and watch the dashboard)" } else { "" };
    text += &format!("intent     {}{copy}\n", mesh.repo.root().display());
    if let (Some(first), Some(other)) = (mesh.members.first(), mesh.members.get(1)) {
        text += &format!("\ntry        curl -H 'Host: {}' http://{}/hello\n", other.app.service.host(), first.egress);
    }
    text += "stop       Ctrl-C\n";
    text
}

/// This program as it was called, so that the line can be copied: it is seldom on the PATH of who tries it.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "weft".to_owned())
}

/// Says what changes, until a child ends by itself.
pub(crate) async fn follow(mesh: &mut LocalMesh) -> Result<()> {
    let mut last = mesh.api.get::<MeshStatus>("/api/status").await.ok().and_then(|status| newest(&status));
    loop {
        tokio::time::sleep(LOOK).await;
        for member in &mut mesh.members {
            member.check()?;
        }
        mesh.server.check()?;
        let Ok(status) = mesh.api.get::<MeshStatus>("/api/status").await else { continue };
        let now = newest(&status);
        if now != last
            && let Some(change) = status.history.first().filter(|change| change.state != ChangeState::Rolling)
        {
            print!("{}", crate::command::status::describe(change));
            last = now;
        }
    }
}

fn newest(status: &MeshStatus) -> Option<String> {
    status.history.first().map(|change| change.commit.clone())
}
