//! The forwarder on loopback addresses, with upstream servers of the tests' own.

use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

const CLIENTS: Cidr = Cidr::new(Ipv4Addr::LOCALHOST, 8);

fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// An address that was free a moment ago, for UDP and TCP.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind(loopback()).unwrap().local_addr().unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
    message
}

/// Answers every question with a text of `length` bytes, over UDP and TCP.
async fn upstream(length: usize) -> (SocketAddr, JoinSet<()>) {
    let address = free_address();
    let udp = UdpSocket::bind(address).await.unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let answer = move |bytes: &[u8]| {
        let question = Message::from_vec(bytes).unwrap();
        let mut answer = question.clone().into_response();
        let text = TXT::new(vec!["x".repeat(250); length / 250]);
        answer.add_answer(Record::from_rdata(question.queries[0].name().clone(), 1, RData::TXT(text)));
        answer.to_vec().unwrap()
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
            // First a forged answer with another id, which must be ignored.
            let mut forged = answer(&buffer[..length]);
            forged[0] ^= 0xff;
            udp.send_to(&forged, client).await.unwrap();
            udp.send_to(&answer(&buffer[..length]), client).await.unwrap();
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let question = tcp::receive(&mut stream, 4096).await.unwrap().unwrap();
            tcp::send(&mut stream, &answer(&question)).await.unwrap();
        }
    });
    (address, tasks)
}

async fn forwarder(config: DnsConfig) -> (Forwarder, SocketAddr) {
    let address = free_address();
    (Forwarder::start(address, CLIENTS, config).await.unwrap(), address)
}

async fn ask_udp(server: SocketAddr, question: &Message) -> Message {
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

#[tokio::test]
async fn questions_are_passed_on_and_long_answers_come_over_tcp() {
    let (upstream, _tasks) = upstream(1000).await;
    let (_forwarder, address) = forwarder(DnsConfig { upstreams: vec![upstream], ..DnsConfig::default() }).await;
    let question = question("long.example.", RecordType::TXT);
    let short = ask_udp(address, &question).await;
    assert!(short.metadata.truncation && short.answers.is_empty());

    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        tcp::send(&mut stream, &question.to_vec().unwrap()).await.unwrap();
        let answer = Message::from_vec(&tcp::receive(&mut stream, 65535).await.unwrap().unwrap()).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (question.metadata.id, 1));
    }
}

#[tokio::test]
async fn a_dead_server_is_passed_over_and_configured_names_are_answered_here() {
    let (upstream, _tasks) = upstream(250).await;
    let config = DnsConfig {
        upstreams: vec![free_address(), upstream],
        hosts: BTreeMap::from([("site.test".to_owned(), Ipv4Addr::new(192, 0, 2, 77))]),
    };
    let (_forwarder, address) = forwarder(config).await;
    assert_eq!(ask_udp(address, &question("short.example.", RecordType::TXT)).await.answers.len(), 1);
    let local = ask_udp(address, &question("SITE.test.", RecordType::A)).await;
    assert_eq!(local.answers[0].data, RData::A(Ipv4Addr::new(192, 0, 2, 77).into()));
    let none = ask_udp(address, &question("site.test.", RecordType::AAAA)).await;
    assert_eq!((none.metadata.response_code, none.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn without_any_server_the_answer_is_a_failure() {
    let config = DnsConfig { upstreams: vec![free_address()], ..DnsConfig::default() };
    let (_forwarder, address) = forwarder(config).await;
    let answer = ask_udp(address, &question("short.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn strangers_get_no_answer() {
    let (upstream, _tasks) = upstream(250).await;
    let address = free_address();
    let elsewhere = Cidr::new(Ipv4Addr::new(198, 18, 0, 0), 15);
    let config = DnsConfig { upstreams: vec![upstream], ..DnsConfig::default() };
    let _forwarder = Forwarder::start(address, elsewhere, config).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    assert_eq!(tcp::receive(&mut stream, 4096).await.ok().flatten(), None, "closed without a word");
    let socket = UdpSocket::bind(loopback()).await.unwrap();
    socket.send_to(&question("short.example.", RecordType::A).to_vec().unwrap(), address).await.unwrap();
    // The forwarder handles datagrams in order: were it to answer strangers, the TCP round trip below would come later.
    let mut again = TcpStream::connect(address).await.unwrap();
    assert_eq!(tcp::receive(&mut again, 4096).await.ok().flatten(), None);
    assert!(socket.try_recv(&mut [0; 512]).is_err());
}
