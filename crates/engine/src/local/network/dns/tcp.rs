//! Questions over TCP: those whose answers do not fit into a datagram.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::room::Room;
use super::{Answerer, QUESTION_MAX, TCP_ROOM, Transport, admit};
use crate::local::cidr::Cidr;

/// How long a client may take to send a question or to take an answer.
const IDLE: Duration = Duration::from_secs(10);

/// Questions on one connection.
const QUESTIONS_MAX: usize = 100;

pub(super) async fn serve(listener: TcpListener, clients: Cidr, answerer: Arc<Answerer>) {
    let room = Arc::new(Room::new(TCP_ROOM));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, client)) => {
                let Some(ticket) = admit(client, clients, &room) else { continue };
                let answerer = Arc::clone(&answerer);
                tasks.spawn(async move {
                    // A connection that breaks is the client's business.
                    let _ = converse(stream, &answerer).await;
                    drop(ticket);
                });
            }
            // Out of file descriptors: one of ours has to end before another try makes sense.
            Err(_) => {
                if tasks.join_next().await.is_none() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(mut stream: TcpStream, answerer: &Answerer) -> io::Result<()> {
    for _ in 0..QUESTIONS_MAX {
        let Some(question) = timeout(IDLE, receive(&mut stream, QUESTION_MAX)).await?? else { break };
        let Some(answer) = answerer.answer(&question, Transport::Tcp).await else { break };
        timeout(IDLE, send(&mut stream, &answer)).await??;
    }
    Ok(())
}

/// Reads one message; `None` when there is no more.
pub(super) async fn receive(stream: &mut TcpStream, max: usize) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > max {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message.
pub(super) async fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}
