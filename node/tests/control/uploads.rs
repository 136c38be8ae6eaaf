//! Uploads: what is taken, refused, cancelled and slowed down.

use std::io::ErrorKind;
use std::time::Duration;

use bib_core::api::{ClientFrame, ErrorCode, Event, Request, UploadPart};
use bib_core::encode::encode;
use bib_core::hash::hash;
use bib_core::id::ContentId;
use bib_core::limits::CONTROL_DATA_LEN;
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
