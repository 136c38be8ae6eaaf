//! Frames and sessions.

use std::io::Write;
use std::net::Shutdown;

use bib_core::api::{API_VERSION, ClientFrame, ErrorCode, Event, Request, ServerFrame};
use bib_core::encode::encode;
use bib_core::key::{Purpose, Signature};
use bib_core::limits::{MAX_CALLS_PER_SESSION, MAX_CONTROL_FRAME, MAX_SESSIONS};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionread;

use crate::client::{Client, TestNode, user};

#[test]
fn garbage_ends_its_session_with_one_answer_and_no_other() {
    let node = TestNode::start("");
    let mut bystander = node.session(&user(1));
    for garbage in [&b"\xff\xff\xff"[..], b"", b"GET / HTTP/1.1\r\n\r\n", &[0; 1_000]] {
        // Before and after the session is opened.
        let mut early = node.connect();
        early.send_bytes(garbage).unwrap();
        assert_eq!(early.refused().code, ErrorCode::Invalid);
        let mut late = node.session(&user(2));
        late.send_bytes(garbage).unwrap();
        assert_eq!(late.refused().code, ErrorCode::Invalid);
    }
    assert_eq!(bystander.call(Request::Ping), Ok(Vec::new()));
}

#[test]
fn frame_that_is_too_long_is_refused_by_its_length_alone() {
    let node = TestNode::start("");
    for len in [MAX_CONTROL_FRAME as u32 + 1, u32::MAX] {
        let mut client = node.session(&user(1));
        client.stream.write_all(&len.to_be_bytes()).unwrap();
        let failure = client.refused();
        assert_eq!(failure.code, ErrorCode::Invalid);
        assert!(failure.message.contains(&len.to_string()), "{failure}");
    }
    node.is_well();
}

#[test]
fn client_that_leaves_in_the_middle_of_a_frame_harms_nobody() {
    let node = TestNode::start("");
    let frame = encode(&ClientFrame::Hello { api: API_VERSION });
    for n_bytes in [1, 3, 4, 4 + frame.len() - 1] {
        let mut client = node.connect();
        let bytes = [&(frame.len() as u32).to_be_bytes(), frame.as_slice()].concat();
        client.stream.write_all(&bytes[..n_bytes]).unwrap();
    }
    node.is_well();
}

/// Waits until the node has closed the stream altogether.
fn wait_for_end(client: &Client) {
    let mut fds = [PollFd::new(&client.stream, PollFlags::empty())];
    let ended = poll(&mut fds, Some(&Timespec { tv_sec: 60, tv_nsec: 0 })).unwrap();
    assert_eq!(ended, 1, "the session is not ended");
}

#[test]
fn client_that_does_not_say_who_it_is_has_no_session_for_long() {
    let node = TestNode::start("");
    node.patience.divide(6_000);
    let silent = node.connect();
    assert_eq!(silent.refused().code, ErrorCode::Timeout);
    let mut halfway = node.connect();
    halfway.send(&ClientFrame::Hello { api: API_VERSION });
    assert_eq!(halfway.refused().code, ErrorCode::Timeout);
    node.patience.divide(1);
    node.is_well();
}

#[test]
fn client_that_has_said_its_last_and_takes_no_answers_gives_its_place_up() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    // More answers than a socket takes ahead of its reader.
    for _ in 0..MAX_CALLS_PER_SESSION {
        client.begin(Request::Config, 0);
    }
    // The node has answered others many times and has written no more: it cannot.
    let mut bystander = node.session(&user(2));
    let (mut arrived, mut unchanged) = (0, 0);
    while arrived == 0 || unchanged < 20 {
        assert_eq!(bystander.call(Request::Ping), Ok(Vec::new()));
        let now = ioctl_fionread(&client.stream).unwrap();
        unchanged = if now == arrived { unchanged + 1 } else { 0 };
        arrived = now;
    }
    node.patience.divide(600);
    client.stream.shutdown(Shutdown::Write).unwrap();
    wait_for_end(&client);
    node.patience.divide(1);
    node.is_well();
}

#[test]
fn clients_that_stop_in_a_frame_make_way_when_all_places_are_taken() {
    let node = TestNode::start("");
    let mut stopped = node.session(&user(1));
    let mut others: Vec<Client> = (1..MAX_SESSIONS).map(|_| node.connect()).collect();
    for other in &mut others {
        other.open(None);
    }
    node.patience.divide(600);
    stopped.stream.write_all(&1_000_u32.to_be_bytes()).unwrap();
    wait_for_end(&stopped);
    node.patience.divide(1);
    drop(others);
    node.is_well();
}

#[test]
fn idle_session_makes_way_when_all_places_are_taken() {
    let node = TestNode::start("");
    let mut idle = node.session(&user(1));
    let mut others: Vec<Client> = (1..MAX_SESSIONS).map(|_| node.connect()).collect();
    for other in &mut others {
        other.open(None);
    }
    node.patience.divide(600);
    // From its last call on.
    assert_eq!(idle.call(Request::Ping), Ok(Vec::new()));
    assert_eq!(idle.refused().code, ErrorCode::Busy);
    node.patience.divide(1);
    assert_eq!(others[0].call(Request::Ping), Ok(Vec::new()), "there is a place again, the others stay");
    drop(others);
    node.is_well();
}

#[test]
fn login_must_be_signed_by_the_user_it_names_for_this_session() {
    let node = TestNode::start("");
    let (key, other) = (user(1), user(2));
    let mut replayed: Option<Signature> = None;
    for _ in 0..2 {
        let mut client = node.connect();
        client.send(&ClientFrame::Hello { api: API_VERSION });
        let Some(ServerFrame::Hello { node: id, nonce, .. }) = client.receive() else { panic!("a greeting") };
        let bytes = bib_core::api::auth_bytes(&nonce, &id);
        let signature = replayed.unwrap_or_else(|| other.sign(Purpose::Auth, &bytes));
        replayed = Some(key.sign(Purpose::Auth, &bytes));
        client.send(&ClientFrame::Auth(Some((key.user_id(), signature))));
        let failure = client.refused();
        assert_eq!(failure.code, ErrorCode::Unauthenticated);
        assert!(failure.hint.is_some());
    }
    node.is_well();
}

#[test]
fn other_version_of_the_contract_is_told_what_to_do() {
    let node = TestNode::start("");
    let mut client = node.connect();
    client.send(&ClientFrame::Hello { api: API_VERSION + 1 });
    let failure = client.refused();
    assert_eq!(failure.code, ErrorCode::Unsupported);
    assert!(failure.hint.unwrap().contains("same version"));
}

#[test]
fn session_begins_with_greeting_and_login() {
    let node = TestNode::start("");
    let call = ClientFrame::Call { id: 1, request_id: 1, deadline_ms: 0, request: Box::new(Request::Ping) };
    let mut at_once = node.connect();
    at_once.send(&call);
    assert_eq!(at_once.refused().code, ErrorCode::Invalid);
    let mut without_login = node.connect();
    without_login.send(&ClientFrame::Hello { api: API_VERSION });
    without_login.send(&call);
    assert_eq!(without_login.refused().code, ErrorCode::Invalid);
    let mut twice = node.session(&user(1));
    twice.send(&ClientFrame::Hello { api: API_VERSION });
    assert_eq!(twice.refused().code, ErrorCode::Invalid);
}

#[test]
fn numbers_of_calls_are_not_zero_and_not_taken() {
    let node = TestNode::start("");
    let call = |id| ClientFrame::Call { id, request_id: 1, deadline_ms: 0, request: Box::new(Request::Ping) };
    let mut client = node.session(&user(1));
    client.send(&call(0));
    assert_eq!(client.refused().code, ErrorCode::Invalid);
    let mut client = node.session(&user(1));
    let id = client.begin_ingest();
    client.send(&call(id));
    assert_eq!(client.refused().code, ErrorCode::Invalid);
}

#[test]
fn calls_above_the_bound_are_refused_and_the_others_go_on() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    let calls: Vec<u32> = (0..MAX_CALLS_PER_SESSION).map(|_| client.begin_ingest()).collect();
    assert_eq!(client.fails(Request::Ping), ErrorCode::Busy);
    client.send(&ClientFrame::Cancel { id: calls[7] });
    assert_eq!(client.result(calls[7]).unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(client.call(Request::Ping), Ok(Vec::new()));
}

#[test]
fn sessions_above_the_bound_are_turned_away_and_the_next_one_is_served() {
    let node = TestNode::start("");
    let mut sessions: Vec<_> = (0..MAX_SESSIONS).map(|_| node.session(&user(1))).collect();
    assert_eq!(node.connect().refused().code, ErrorCode::Busy);
    let last = sessions.pop().unwrap();
    // Its end is known when the node has closed its side as well.
    last.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut last = last;
    assert_eq!(last.receive(), None);
    sessions.clear();
    node.is_well();
}

#[test]
fn call_that_exceeds_its_deadline_is_told_so() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    let request =
        Request::Ingest { dataset: None, kind: bib_core::model::manifest::ManifestKind::File, expected: None };
    let id = client.begin(request, 20);
    assert_eq!(client.result(id).unwrap_err().code, ErrorCode::Timeout);
    assert_eq!(client.call(Request::Ping), Ok(Vec::new()));
}

#[test]
fn who_calls_is_known_by_key_and_by_process() {
    let node = TestNode::start("");
    let key = user(3);
    let answer = node.session(&key).call(Request::WhoAmI).unwrap();
    let uid = Some(rustix::process::geteuid().as_raw());
    assert_eq!(answer, [Event::WhoAmI { user: Some(key.user_id()), uid, operator: uid == Some(0) || is_own(uid) }]);
    let mut nobody = node.connect();
    nobody.open(None);
    let [Event::WhoAmI { user: None, .. }] = nobody.call(Request::WhoAmI).unwrap()[..] else { panic!("an answer") };
    assert_eq!(
        nobody.fails(Request::OpSubmit { ops: Vec::new() }),
        ErrorCode::Unauthenticated,
        "changes take a key, whoever runs the process"
    );
}

fn is_own(uid: Option<u32>) -> bool {
    uid == Some(rustix::process::geteuid().as_raw())
}
