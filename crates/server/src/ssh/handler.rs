//! `russh`'s callbacks, turned into calls of ours. Nothing is decided here.

use russh::server::{Auth as Answer, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet};

use super::auth::{Auth, Login};
use super::connection::{Connection, Target};

/// One connection, before and after its login.
#[derive(Debug)]
pub(super) struct Visitor {
    auth: Auth,
    login: Option<Login>,
    connection: Option<Connection>,
}

impl Visitor {
    /// A connection that has not logged in.
    pub(super) fn new(auth: Auth) -> Self {
        Self { auth, login: None, connection: None }
    }

    /// Remembers whom to let in.
    fn answer(&mut self, login: Option<Login>) -> Answer {
        match login {
            Some(login) => {
                self.login = Some(login);
                Answer::Accept
            }
            None => refuse(),
        }
    }
}

fn refuse() -> Answer {
    let methods = MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]);
    Answer::Reject { proceed_with_methods: Some(methods), partial_success: false }
}

impl Handler for Visitor {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Answer, Self::Error> {
        Ok(refuse())
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Answer, Self::Error> {
        let login = self.auth.password(user, password).await;
        Ok(self.answer(login))
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Answer, Self::Error> {
        Ok(if self.auth.offered(user, offer.public_key).await { Answer::Accept } else { refuse() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Answer, Self::Error> {
        let login = self.auth.public_key(user, key.public_key).await;
        Ok(self.answer(login))
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(login) = self.login.take() {
            self.connection = Some(Connection::begin(login, session.handle()));
        }
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_session(channel, reply).await;
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_direct(channel, Target::Tcp(host.to_owned(), port), reply).await;
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(connection) = &mut self.connection {
            connection.open_direct(channel, Target::Unix(path.to_owned()), reply).await;
        }
        Ok(())
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }

    fn adjust_window(&mut self, channel: ChannelId, current: u32) -> u32 {
        match &mut self.connection {
            Some(connection) => connection.next_window(channel, current),
            None => current,
        }
    }

    async fn tcpip_forward(&mut self, address: &str, port: &mut u32, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.forward_tcp(address, port).await),
            None => Ok(false),
        }
    }

    async fn cancel_tcpip_forward(&mut self, address: &str, port: u32, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.cancel_tcp(address, port).await),
            None => Ok(false),
        }
    }

    async fn streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.forward_unix(path).await),
            None => Ok(false),
        }
    }

    async fn cancel_streamlocal_forward(&mut self, path: &str, _: &mut Session) -> Result<bool, Self::Error> {
        match &mut self.connection {
            Some(connection) => Ok(connection.cancel_unix(path).await),
            None => Ok(false),
        }
    }

    async fn authentication_banner(&mut self) -> Result<Option<String>, Self::Error> {
        Ok(None)
    }
}
