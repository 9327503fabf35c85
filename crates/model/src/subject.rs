//! Whom the control plane gives an identity: a service, or the agent of a machine, which gets identities for others.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::id::{NameError, ServiceName, SpiffeId, TrustDomain, is_dns_label};

/// What the text of an agent begins with: no name of a service has a colon.
const AGENT: &str = "agent:";

/// The name of an agent: a DNS label (RFC 1123), 1 to 63 of `[a-z0-9-]`, no dash at the ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentName(Arc<str>);

impl AgentName {
    /// The name alone, like `m1`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AgentName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if is_dns_label(text) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::AgentName(text.chars().take(200).collect()))
        }
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service or an agent. Its text is `namespace/name` or `agent:name`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A service of the mesh.
    Service(ServiceName),
    /// The agent of a machine.
    Agent(AgentName),
}

impl Subject {
    /// How `weft identity join-token` is told of it, like `--service prod/web`.
    pub fn option(&self) -> String {
        match self {
            Self::Service(service) => format!("--service {service}"),
            Self::Agent(agent) => format!("--agent {agent}"),
        }
    }
}

impl FromStr for Subject {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(AGENT) {
            Some(agent) => agent.parse().map(Self::Agent),
            None => text.parse().map(Self::Service),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::Agent(agent) => write!(f, "{AGENT}{agent}"),
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ServiceName> for Subject {
    fn from(service: ServiceName) -> Self {
        Self::Service(service)
    }
}

impl From<AgentName> for Subject {
    fn from(agent: AgentName) -> Self {
        Self::Agent(agent)
    }
}

impl SpiffeId {
    /// The identity of the agent of a machine.
    pub fn for_agent(trust_domain: &TrustDomain, agent: &AgentName) -> Self {
        Self::at(trust_domain, &format!("/agent/{agent}"))
    }

    /// The identity of a service or an agent.
    pub fn of(trust_domain: &TrustDomain, subject: &Subject) -> Self {
        match subject {
            Subject::Service(service) => Self::for_service(trust_domain, service),
            Subject::Agent(agent) => Self::for_agent(trust_domain, agent),
        }
    }

    /// The agent that this ID names, if its path is `/agent/<name>`.
    pub fn agent(&self) -> Option<AgentName> {
        self.path().strip_prefix("/agent/")?.parse().ok()
    }

    /// The service or the agent that this ID names.
    pub fn subject(&self) -> Option<Subject> {
        self.service().map(Subject::Service).or_else(|| self.agent().map(Subject::Agent))
    }
}

crate::id::serde_as_text!(AgentName, Subject);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_agents_are_told_apart_by_their_texts_and_their_ids() {
        let domain: TrustDomain = "acme.internal".parse().expect("legal");
        for (text, id, option) in [
            ("prod/web", "spiffe://acme.internal/ns/prod/sa/web", "--service prod/web"),
            ("agent:m1", "spiffe://acme.internal/agent/m1", "--agent m1"),
            // A namespace may be called so.
            ("agent/m1", "spiffe://acme.internal/ns/agent/sa/m1", "--service agent/m1"),
        ] {
            let subject: Subject = text.parse().expect("legal");
            assert_eq!((subject.to_string(), subject.option()), (text.to_owned(), option.to_owned()));
            assert_eq!(SpiffeId::of(&domain, &subject).as_str(), id);
            assert_eq!(id.parse::<SpiffeId>().expect("legal").subject(), Some(subject));
        }
    }

    #[test]
    fn no_other_id_is_an_agents() {
        for text in ["agent:", "agent:M1", "agent:a.b", "agent:a/b", "agent:-a", ":a"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
        for id in ["spiffe://a/agent", "spiffe://a/agent/m1/x", "spiffe://a/agent/M1", "spiffe://a/x/agent/m1"] {
            assert_eq!(id.parse::<SpiffeId>().expect("legal").subject(), None, "{id}");
        }
    }
}
