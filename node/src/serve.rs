//! Answers a `/bib/data` stream of a peer: the serving machine with a stream and the chunk store around it.
//!
//! Invariant: every chunk in memory is counted against the bytes that all peers share, until it is written.

use std::collections::VecDeque;
use std::rc::Rc;

use bib_core::catalog::{content, record};
use bib_core::chunk::Chunk;
use bib_core::encode::{decode, encode};
use bib_core::id::{NodeId, VersionId};
use bib_core::limits::{MAX_CHUNK_LEN, MAX_DATA_REQUEST_LEN, PEER_BYTES_IN_FLIGHT};
use bib_core::machine::transfer::StoreFailed;
use bib_core::machine::transfer::have;
use bib_core::machine::transfer::serve::{Access, Event, Serve, ServeConfig, StoreRequest};
use bib_core::model::{TopicStatus, Visibility};
use bib_core::port::StoreError;
use bib_core::wire::message::{DataRequest, Envelope};
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::credits::Permit;
use crate::net::{FrameReader, FrameStream};
use crate::node::Context;

/// Frames given to the writer of a stream; each has a chunk at most.
const WRITING: usize = 2;

enum Input {
    Request(Envelope<DataRequest>),
    /// The peer asks nothing more, or nothing that makes sense.
    Ended,
    Sent(usize),
    /// The stream broke.
    Broken,
    Access(u64, Access),
    Loaded(u64, Result<Option<(Chunk, Permit)>, StoreFailed>),
    Have(u64, Result<have::Have, StoreFailed>),
}

/// Serves a stream until one side ends it.
pub(crate) async fn run(ctx: Rc<Context>, peer: NodeId, stream: FrameStream) {
    let (reader, mut writer) = stream.split();
    let (requests, incoming) = async_channel::bounded(1);
    let reading = ctx.spawner.spawn("serve reader", read(peer, reader.with_max(MAX_DATA_REQUEST_LEN), requests));
    let (frames, outgoing) = async_channel::bounded::<(Vec<u8>, usize, Option<Permit>)>(WRITING);
    let (told, sent) = async_channel::unbounded();
    let view = ctx.network.view.clone();
    let writing = ctx.spawner.spawn("serve writer", async move {
        while let Ok((frame, cost, permit)) = outgoing.recv().await {
            if writer.write(&frame).await.is_err() {
                let _ = told.try_send(Input::Broken);
                return;
            }
            view.borrow_mut().wire_sent += frame.len() as u64;
            drop(permit);
            let _ = told.try_send(Input::Sent(cost));
        }
        // The peer may be gone.
        let _ = writer.close().await;
    });

    let config =
        ServeConfig { bytes_in_flight: PEER_BYTES_IN_FLIGHT.min(ctx.budget.serve_bytes), ..ServeConfig::default() };
    let mut serve = Serve::new(ctx.clock.now(), config);
    let mut work: FuturesUnordered<LocalBoxFuture<'_, Input>> = FuturesUnordered::new();
    // Permits of loaded chunks, in the order in which the machine sends them.
    let mut permits: VecDeque<(bib_core::id::ChunkId, Permit)> = VecDeque::new();
    let mut waiting: Option<(Vec<u8>, usize, Option<Permit>)> = None;
    let mut peer_ended = false;
    loop {
        // Outputs first, until there are none.
        loop {
            if let Some(frame) = waiting.take()
                && let Err(error) = frames.try_send(frame)
            {
                match error {
                    async_channel::TrySendError::Full(frame) => waiting = Some(frame),
                    async_channel::TrySendError::Closed(_) => return,
                }
            }
            let mut idle = true;
            if waiting.is_none()
                && let Some(transmit) = serve.poll_transmit()
            {
                idle = false;
                let permit = match &transmit.message.body {
                    bib_core::wire::message::DataResponse::Chunk(chunk) => {
                        let at = permits.iter().position(|(id, _)| *id == chunk.id);
                        at.and_then(|at| permits.remove(at)).map(|(_, permit)| permit)
                    }
                    _ => None,
                };
                waiting = Some((encode(&transmit.message), transmit.cost, permit));
            }
            if let Some(request) = serve.poll_store() {
                idle = false;
                work.push(ask_store(&ctx, request));
            }
            if let Some(event) = serve.poll_event() {
                idle = false;
                match event {
                    Event::Authorise { token, version } => {
                        let ctx = &ctx;
                        work.push(async move { Input::Access(token, access(ctx, version).await) }.boxed_local());
                    }
                    Event::Close(reason) => {
                        log::debug!(peer:% = peer, why:? = reason; "a data stream is closed");
                        return;
                    }
                }
            }
            if idle {
                break;
            }
        }
        if peer_ended && work.is_empty() && serve.bytes_in_flight() == 0 && waiting.is_none() {
            drop(frames);
            writing.await;
            return;
        }
        let timeout = serve.poll_timeout();
        let accepting = serve.is_accepting() && !peer_ended;
        let next_request = async {
            if accepting { incoming.recv().await.unwrap_or(Input::Ended) } else { std::future::pending().await }
        };
        let input = futures::select_biased! {
            input = sent.recv().fuse() => input.unwrap_or(Input::Broken),
            input = work.select_next_some() => input,
            input = next_request.fuse() => input,
            () = ctx.clock.sleep_until(timeout.map(|(at, _)| at)).fuse() => {
                serve.handle_timeout(ctx.clock.now());
                continue;
            }
        };
        let now = ctx.clock.now();
        match input {
            Input::Request(request) => serve.handle_request(now, request),
            Input::Ended => peer_ended = true,
            Input::Sent(cost) => serve.handle_sent(now, cost),
            Input::Broken => return,
            Input::Access(token, access) => serve.handle_authorised(now, token, access),
            Input::Loaded(token, loaded) => {
                let chunk = loaded.map(|loaded| {
                    loaded.map(|(chunk, permit)| {
                        permits.push_back((chunk.id(), permit));
                        chunk
                    })
                });
                serve.handle_loaded(now, token, chunk);
            }
            Input::Have(token, have) => serve.handle_have(now, token, have),
        }
        // What a cancelled request had loaded is not sent: nothing waits for its memory.
        if serve.bytes_in_flight() == 0 {
            permits.clear();
        }
        let _ = &reading;
    }
}

async fn read(peer: NodeId, mut reader: FrameReader, requests: async_channel::Sender<Input>) {
    loop {
        let input = match reader.read().await {
            Ok(Some(frame)) => match decode::<Envelope<DataRequest>>(&frame) {
                Ok(request) => Input::Request(request),
                Err(error) => {
                    log::warn!(peer:% = peer, why:% = error; "a peer sent what is no data request; its stream is closed");
                    Input::Broken
                }
            },
            Ok(None) => Input::Ended,
            Err(error) => {
                log::debug!(peer:% = peer, why:% = error; "a data stream broke");
                Input::Broken
            }
        };
        let is_last = !matches!(input, Input::Request(_));
        if requests.send(input).await.is_err() || is_last {
            return;
        }
    }
}

fn failed(error: &StoreError) -> StoreFailed {
    log::error!(error:% = error; "content that a peer asked for cannot be read");
    StoreFailed
}

fn ask_store(ctx: &Rc<Context>, request: StoreRequest) -> LocalBoxFuture<'_, Input> {
    match request {
        StoreRequest::LoadChunk { token, id } => async move {
            let mut permit = ctx.serve_credits.borrow(MAX_CHUNK_LEN).await;
            let loaded = ctx
                .store
                .blocking("load chunk", move |stores| {
                    // What lies in a file of its owner is compressed here, for the way.
                    Ok(stores.chunks().get(&id)?.map(Chunk::packed))
                })
                .await;
            let loaded = match loaded {
                Ok(Some(chunk)) => {
                    permit.shrink(chunk.encoded().len());
                    Ok(Some((chunk, permit)))
                }
                Ok(None) => Ok(None),
                // A damaged chunk is one that is not held: the peer finds it elsewhere.
                Err(StoreError::Corrupt(why)) => {
                    log::error!(chunk = id.short(), why = why.as_str(); "a stored chunk is damaged");
                    Ok(None)
                }
                // So is one whose file changed.
                Err(StoreError::Changed { path, why }) => {
                    log::warn!(chunk = id.short(), path = path.as_str(), why = why.as_str(); "a referenced file changed");
                    Ok(None)
                }
                Err(error) => Err(failed(&error)),
            };
            Input::Loaded(token, loaded)
        }
        .boxed_local(),
        StoreRequest::LookupHave { token, manifest } => async move {
            let have =
                ctx.store.blocking("look up content", move |stores| have::lookup(stores.chunks(), manifest)).await;
            Input::Have(token, have.map_err(|error| failed(&error)))
        }
        .boxed_local(),
    }
}

/// Whether a peer may read a version: everybody may read what is in a public topic.
async fn access(ctx: &Rc<Context>, id: VersionId) -> Access {
    let looked_up = ctx
        .store
        .read(move |read| {
            let Some(version) = record::version(read, &id)? else { return Ok(Access::NotFound) };
            let topic = record::topic(read, &version.topic)?;
            Ok::<_, StoreError>(match topic {
                Some(topic) if topic.status == TopicStatus::Deleted => Access::NotFound,
                Some(topic) if topic.visibility == Visibility::Public => {
                    let complete = content::is_here(read, &version.manifest)?;
                    Access::Allowed { manifest: version.manifest, complete }
                }
                Some(_) => Access::Denied,
                None => Access::NotFound,
            })
        })
        .await;
    looked_up.unwrap_or_else(|error| {
        failed(&error);
        Access::NotFound
    })
}
