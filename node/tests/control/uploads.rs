//! Uploads: what is taken, refused, cancelled and slowed down.

use std::io::ErrorKind;
use std::time::Duration;

use bib_core::api::{API_VERSION, ClientFrame, ErrorCode, Event, Request, ServerFrame, UploadPart};
use bib_core::encode::encode;
use bib_core::hash::hash;
use bib_core::id::ContentId;
use bib_core::limits::{CONTROL_DATA_LEN, MAX_SESSIONS};
use bib_core::model::manifest::{EntryKind, ManifestKind};
use serde_bytes::ByteBuf;

use crate::client::{Client, TestNode, user};

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out: Vec<u8> =
        (0..len as u64 / 32 + 1).flat_map(|i| hash(&[seed.to_le_bytes(), i.to_le_bytes()].concat())).collect();
    out.truncate(len);
    out
}

fn staged(client: &mut Client, bytes: &[u8]) -> bib_core::api::event::Staged {
    let id = client.begin_ingest();
    client.upload_file(id, bytes);
    let events = client.result(id).unwrap();
    let [Event::Staged(staged)] = &events[..] else { panic!("{events:?}") };
    staged.clone()
}

#[test]
fn content_is_named_by_its_hash_and_stored_once() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    let bytes = noise(3_000_000, 1);
    let first = staged(&mut client, &bytes);
    assert_eq!(first.content, ContentId::from_bytes(hash(&bytes)));
    assert_eq!((first.size, first.n_files, first.new_bytes), (3_000_000, 1, 3_000_000));
    let second = staged(&mut client, &bytes);
    assert_eq!((second.manifest, second.new_bytes, second.stored_bytes), (first.manifest, 0, 0));
    assert_eq!(staged(&mut client, b"").size, 0, "an empty file is one as well");
}

#[test]
fn cancelled_upload_leaves_the_session_and_the_store_whole() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    let bytes = noise(2_000_000, 2);
    let id = client.begin_ingest();
    client.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    client.upload(id, UploadPart::Data(ByteBuf::from(&bytes[..500_000])));
    client.send(&ClientFrame::Cancel { id });
    assert_eq!(client.result(id).unwrap_err().code, ErrorCode::Cancelled);
    // What was on its way when it was cancelled falls.
    client.upload(id, UploadPart::Data(ByteBuf::from(&bytes[500_000..700_000])));
    client.upload(id, UploadPart::End);
    assert_eq!(staged(&mut client, &bytes).content, ContentId::from_bytes(hash(&bytes)));
    // A client that goes away in the middle is the same.
    let mut gone = node.session(&user(1));
    let id = gone.begin_ingest();
    gone.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    drop(gone);
    assert_eq!(staged(&mut client, &bytes).new_bytes, 0);
}

#[test]
fn uploads_of_one_session_go_on_beside_each_other() {
    let node = TestNode::start("limits.memory = '128MiB'");
    let mut client = node.session(&user(1));
    let (a, b) = (noise(700_000, 3), noise(900_000, 4));
    let (first, second) = (client.begin_ingest(), client.begin_ingest());
    for id in [first, second] {
        client.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    }
    for (left, right) in a.chunks(100_000).zip(b.chunks(129_000)) {
        client.upload(first, UploadPart::Data(ByteBuf::from(left)));
        client.upload(second, UploadPart::Data(ByteBuf::from(right)));
    }
    client.upload(second, UploadPart::End);
    let events = client.result(second).unwrap();
    assert!(matches!(&events[..], [Event::Staged(staged)] if staged.content.as_bytes() == &hash(&b)), "{events:?}");
    client.upload(first, UploadPart::End);
    let events = client.result(first).unwrap();
    assert!(matches!(&events[..], [Event::Staged(staged)] if staged.content.as_bytes() == &hash(&a)), "{events:?}");
}

#[test]
fn wrong_files_are_refused_by_name() {
    let node = TestNode::start("");
    let mut client = node.session(&user(1));
    let tree = |client: &mut Client, paths: &[&str]| {
        let id = client.begin(Request::Ingest { dataset: None, kind: ManifestKind::Tree, expected: None }, 0);
        for path in paths {
            client.upload(id, UploadPart::Entry { path: (*path).to_owned(), kind: EntryKind::File });
        }
        client.upload(id, UploadPart::End);
        client.result(id)
    };
    for (paths, named) in [
        (&["../etc/passwd"][..], "../etc/passwd"),
        (&["/absolute"], "/absolute"),
        (&["b", "a"], "`a`"),
        (&["a", "a"], "`a`"),
        (&["a", "a/b"], "`a/b`"),
    ] {
        let failure = tree(&mut client, paths).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Invalid);
        assert!(failure.message.contains(named), "{failure}");
    }
    let id = client.begin_ingest();
    client.upload(id, UploadPart::Data(ByteBuf::from(vec![1])));
    assert_eq!(client.result(id).unwrap_err().code, ErrorCode::Invalid, "bytes of no file");
    assert!(tree(&mut client, &["a", "b/c"]).is_ok());
}

#[test]
fn content_takes_a_user_and_room() {
    let node = TestNode::start("storage.max_bytes = '1MiB'\nstorage.min_free = 0");
    let mut nobody = node.connect();
    nobody.open(None);
    let request = Request::Ingest { dataset: None, kind: ManifestKind::File, expected: None };
    assert_eq!(nobody.fails(request), ErrorCode::Unauthenticated);
    let mut client = node.session(&user(1));
    let announced = Request::Ingest { dataset: None, kind: ManifestKind::File, expected: Some(2 << 20) };
    let failure = client.call(announced).unwrap_err();
    assert_eq!(failure.code, ErrorCode::Quota);
    assert!(failure.hint.unwrap().contains("storage.max_bytes"));
    let id = client.begin_ingest();
    client.upload_file(id, &noise(8 << 20, 5));
    assert_eq!(client.result(id).unwrap_err().code, ErrorCode::Quota, "also when nobody said how much comes");
    assert_eq!(client.call(Request::Ping), Ok(Vec::new()));
}

#[test]
fn collection_is_named_to_who_has_no_room_when_something_is_known_to_be_unreferenced() {
    let node = TestNode::start("storage.max_bytes = '64MiB'\nstorage.min_free = 0");
    let mut client = node.session(&user(1));
    let hint = |client: &mut Client| {
        let request = Request::Ingest { dataset: None, kind: ManifestKind::File, expected: Some(80 << 20) };
        let failure = client.call(request).unwrap_err();
        assert_eq!(failure.code, ErrorCode::Quota);
        failure.hint.unwrap()
    };
    assert!(!hint(&mut client).contains("gc"));
    let id = client.begin_ingest();
    client.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    for piece in noise(4 << 20, 6).chunks(100_000) {
        client.upload(id, UploadPart::Data(ByteBuf::from(piece)));
    }
    client.upload(id, UploadPart::Entry { path: "second".to_owned(), kind: EntryKind::File });
    assert_eq!(client.result(id).unwrap_err().code, ErrorCode::Invalid);
    // What is whole is durable, and all before it.
    let id = client.begin_ingest();
    client.upload_file(id, b"whole");
    client.result(id).unwrap();
    client.call(Request::Gc { dry_run: false, min_age_s: None }).unwrap();
    let named = hint(&mut client);
    assert!(named.contains("`bib admin gc`") && named.contains("storage.max_bytes"), "{named}");
}

#[test]
fn client_that_sends_faster_than_it_is_taken_is_slowed() {
    // One place for an ingest: who has it and sends nothing makes all others wait.
    let node = TestNode::start("limits.memory = '32MiB'");
    let mut idle = node.session(&user(1));
    let held = idle.begin_ingest();
    idle.upload(held, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    assert_eq!(idle.call(Request::Ping), Ok(Vec::new()));
    let mut eager = node.session(&user(2));
    let id = eager.begin_ingest();
    eager.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    eager.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = ByteBuf::from(vec![7; CONTROL_DATA_LEN]);
    let frame = encode(&ClientFrame::Upload { id, part: UploadPart::Data(piece) });
    let sent = (0..200).take_while(|_| match eager.send_bytes(&frame) {
        Ok(()) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("{error}"),
    });
    let sent = sent.count() * CONTROL_DATA_LEN;
    assert!(sent < 16 << 20, "{sent} bytes were taken although nobody has use for them");
    // Others are served meanwhile.
    node.is_well();
}

#[test]
fn uploads_at_once_all_succeed_in_the_least_memory() {
    // One place for an ingest, and memory for few parts: those that wait must leave it to the one whose turn it is.
    let node = TestNode::start("limits.memory = '32MiB'");
    let mut first = node.session(&user(1));
    let held = first.begin_ingest();
    first.upload(held, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    assert_eq!(first.call(Request::Ping), Ok(Vec::new()));
    let others: Vec<Client> = (2..6).map(|seed| node.session(&user(seed))).collect();
    let (waiting, waits) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let publishers: Vec<_> = others
            .into_iter()
            .zip(2..)
            .map(|(mut client, seed)| {
                let waiting = waiting.clone();
                scope.spawn(move || {
                    let bytes = noise(3 << 20, seed);
                    let id = client.begin_ingest();
                    client.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
                    let ping = client.begin(Request::Ping, 0);
                    assert_eq!(client.result(ping), Ok(Vec::new()), "what waits for its turn holds up no other call");
                    waiting.send(()).unwrap();
                    for piece in bytes.chunks(CONTROL_DATA_LEN) {
                        client.upload(id, UploadPart::Data(ByteBuf::from(piece)));
                    }
                    client.upload(id, UploadPart::End);
                    client.result(id).unwrap()
                })
            })
            .collect();
        for _ in &publishers {
            waits.recv().unwrap();
        }
        // All of it is needed by the first: more than the memory of the sessions.
        for piece in noise(4 << 20, 1).chunks(CONTROL_DATA_LEN) {
            first.upload(held, UploadPart::Data(ByteBuf::from(piece)));
        }
        first.upload(held, UploadPart::End);
        assert_eq!(first.result(held).unwrap().len(), 1);
        for publisher in publishers {
            assert_eq!(publisher.join().unwrap().len(), 1);
        }
    });
}

#[test]
fn who_leaves_or_cancels_while_its_upload_waits_for_its_turn_is_noticed() {
    let node = TestNode::start("limits.memory = '32MiB'");
    let mut first = node.session(&user(1));
    let held = first.begin_ingest();
    assert_eq!(first.call(Request::Ping), Ok(Vec::new()));
    let mut regrets = node.session(&user(2));
    let id = regrets.begin_ingest();
    regrets.upload(id, UploadPart::Entry { path: "f".to_owned(), kind: EntryKind::File });
    regrets.send(&ClientFrame::Cancel { id });
    assert_eq!(regrets.result(id).unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(regrets.call(Request::Ping), Ok(Vec::new()));
    let mut leaves = node.session(&user(3));
    let id = leaves.begin_ingest();
    leaves.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let part = encode(&ClientFrame::Upload { id, part: UploadPart::Data(ByteBuf::from(vec![7; CONTROL_DATA_LEN])) });
    while leaves.send_bytes(&part).is_ok() {}
    // The node is full: there is a place for a session when it has seen that somebody left.
    let mut others: Vec<Client> = (3..MAX_SESSIONS).map(|_| node.session(&user(4))).collect();
    assert_eq!(node.connect().refused().code, ErrorCode::Busy);
    drop(leaves);
    others.push(loop {
        let mut client = node.connect();
        // Who is turned away may be so before it is heard.
        let _ = client.send_bytes(&encode(&ClientFrame::Hello { api: API_VERSION }));
        match client.receive() {
            Some(ServerFrame::Hello { .. }) => break client,
            Some(ServerFrame::Failed { failure, .. }) => assert_eq!(failure.code, ErrorCode::Busy),
            None => {}
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    });
    drop(others);
    first.send(&ClientFrame::Cancel { id: held });
    assert_eq!(staged(&mut regrets, b"now").size, 3, "nobody who is gone keeps the place");
}
