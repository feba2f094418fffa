//! The client's SSH agent, reached through a socket in the box (`ssh -A`). One socket serves all sessions of a connection.

use boxyard_proto::wire::Endpoint;
use tokio::sync::OnceCell;

use super::connection::Common;
use super::listeners::{Place, accept_all};

/// The socket, once a session has asked for it.
#[derive(Debug, Default)]
pub(super) struct AgentForward(OnceCell<String>);

impl AgentForward {
    /// The socket's path in the box. `None` if there can be none; the next session tries again.
    pub(super) async fn socket(&self, common: &std::sync::Arc<Common>) -> Option<String> {
        let made = self.0.get_or_try_init(|| async {
            let listener = common.shared.boxes.listen(&common.kept, Endpoint::AgentSocket).await;
            let listener = listener.inspect_err(|error| tracing::debug!(%error, "no socket for an SSH agent"))?;
            let path = listener.listener.host().to_owned();
            common.log_forward(format_args!("SSH agent forwarded"));
            common.spawn(accept_all(std::sync::Arc::clone(common), Place::Agent, listener));
            Ok::<_, crate::boxes::SessionError>(path)
        });
        made.await.ok().cloned()
    }
}
