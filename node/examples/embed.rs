//! A node inside another program: starts one in a folder, publishes a file as a user, reads it back, stops.
//!
//! `cargo run -p bib-node --example embed -- /tmp/embedded`

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use bib_core::api::event::{OpContext, Staged};
use bib_core::api::request::ContextFor;
use bib_core::api::{Event, Request, UploadPart};
use bib_core::id::{DatasetId, TopicId};
use bib_core::key::SecretKey;
use bib_core::model::manifest::{EntryKind, ManifestKind};
use bib_core::model::{ContentFormat, Visibility};
use bib_core::op::operation::{FieldChanges, NewVersion};
use bib_core::op::{Body, Operation, Unsigned};
use bib_core::time::Timestamp;
use bib_node::config::{Config, Layers, Surroundings};
use bib_node::{Handle, NodeBuilder, Spawner};
use serde_bytes::ByteBuf;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).ok_or("usage: embed <folder>")?;
    let mut layers = Layers::built_in();
    let settings = format!(
        "storage.data_dir = '{folder}/data'\ncontrol.socket = '{folder}/bibd.sock'\np2p.listen = ['/ip4/127.0.0.1/tcp/0']"
    );
    layers.add_file(&settings, "embed")?;
    let config = Config::resolve(&layers, &Surroundings::default())?;

    let spawner = Spawner::new();
    let node = NodeBuilder::new(config).start(&spawner)?;
    let handle = node.handle();
    let work = spawner.spawn("example", async move {
        let result = publish_and_read(&handle).await;
        handle.shutdown();
        result
    });
    spawner.block_on(async {
        node.run().await;
        work.await.ok_or("the example panicked")?
    })
}

/// The node never sees the key: what changes the catalog is signed here.
async fn publish_and_read(node: &Handle) -> Result<()> {
    // A real program keeps the seed of its user's key.
    let key = SecretKey::from_seed([7; 32]);
    let fields = FieldChanges::default;
    let root =
        Body::CreateTopic { parent: None, name: "embedded".parse()?, visibility: Visibility::Public, fields: fields() };
    let first = OpContext { parents: Vec::new(), keeps: Vec::new(), lamport: 1, not_before: Timestamp(0) };
    let topic = submit(node, &key, None, first, root).await?;
    let dataset = Body::CreateDataset { name: "greeting".parse()?, fields: fields() };
    let dataset =
        DatasetId::from(submit(node, &key, Some(topic.id().into()), context(node, &topic).await?, dataset).await?.id());

    let mut call =
        node.call(Some(key.user_id()), Request::Ingest { dataset: None, kind: ManifestKind::File, expected: None });
    call.upload(UploadPart::Entry { path: "hello.txt".to_owned(), kind: EntryKind::File }).await;
    call.upload(UploadPart::Data(ByteBuf::from(b"Hello from inside!\n".as_slice()))).await;
    call.upload(UploadPart::End).await;
    let mut staged: Option<Staged> = None;
    while let Some(event) = call.next().await? {
        if let Event::Staged(answer) = event {
            staged = Some(answer);
        }
    }
    let staged = staged.ok_or("an ingest is answered")?;
    let version = Body::PublishVersion(NewVersion {
        dataset,
        semver: "1.0.0".parse()?,
        previous: None,
        message: "first".to_owned(),
        manifest: staged.manifest,
        content: staged.content,
        size: staged.size,
        n_files: staged.n_files,
        format: ContentFormat::Text,
        schema: None,
        row_count: None,
        license: None,
        source_url: None,
    });
    submit(node, &key, Some(topic.id().into()), context(node, &topic).await?, version).await?;

    let reference = "embedded/greeting@1.0.0".parse()?;
    let mut call = node.call(None, Request::Read { reference, offset: 0, len: None });
    let mut text = Vec::new();
    while let Some(event) = call.next().await? {
        if let Event::Data(bytes) = event {
            text.extend_from_slice(&bytes);
        }
    }
    assert_eq!(text, b"Hello from inside!\n");
    Ok(())
}

async fn context(node: &Handle, topic: &Operation) -> Result<OpContext> {
    let mut call = node.call(None, Request::OpContext(ContextFor::Content(topic.id().into())));
    match call.next().await? {
        Some(Event::OpContext(context)) => Ok(context),
        other => Err(format!("unexpected {other:?}").into()),
    }
}

async fn submit(
    node: &Handle,
    key: &SecretKey,
    topic: Option<TopicId>,
    context: OpContext,
    body: Body,
) -> Result<Operation> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let OpContext { parents, lamport, not_before, .. } = context;
    let time = Timestamp(i64::try_from(now)?).max(not_before);
    let op = Unsigned { topic, author: key.user_id(), lamport, time, parents, keeps: Vec::new(), body }.sign(key)?;
    let ops = vec![ByteBuf::from(op.bytes())];
    let mut call = node.call(Some(key.user_id()), Request::OpSubmit { ops });
    while call.next().await?.is_some() {}
    Ok(op)
}
