//! From a request to the service that answers it.

use std::rc::Rc;

use bib_core::api::{Failure, Request};

use super::{Caller, Output, Uploads};
use crate::node::Context;
use crate::service::{access, admin, backup, care, catalog, content, in_place, keys, peers, publish, status};

/// Carries out a call. Dropping the future ends it; what was acknowledged stays.
pub(crate) async fn call(
    ctx: &Rc<Context>,
    caller: Caller,
    request: Request,
    uploads: Uploads,
    out: &Output,
) -> Result<(), Failure> {
    if !matches!(request, Request::Ingest { .. } | Request::IngestInPlace { .. }) {
        uploads.refuse();
    }
    match request {
        Request::Ping => Ok(()),
        Request::Status => status::status(ctx, out).await,
        Request::WhoAmI => status::who_am_i(&caller, out).await,
        Request::OpContext(wanted) => access::context(ctx, wanted, out).await,
        Request::OpSubmit { ops } => access::submit(ctx, &caller, ops, out).await,
        Request::OpGet(id) => access::get(ctx, id, out).await,
        Request::OpLog { topic, paging } => access::log(ctx, topic, paging, out).await,
        Request::TopicGet(path) => catalog::topic(ctx, path, out).await,
        Request::TopicList { under, paging } => catalog::topics(ctx, under, paging, out).await,
        Request::TopicMembers(path) => catalog::members(ctx, path, out).await,
        Request::DatasetGet(reference) => catalog::dataset(ctx, reference, out).await,
        Request::DatasetList { topic, paging } => catalog::datasets(ctx, topic, paging, out).await,
        Request::Versions { reference, paging } => catalog::versions(ctx, reference, paging, out).await,
        Request::VersionGet(reference) => catalog::version(ctx, reference, out).await,
        Request::Find(query) => catalog::find(ctx, query, out).await,
        Request::Ingest { dataset, kind, expected } => {
            let wanted = publish::Wanted { dataset, kind, expected, in_place: false };
            publish::ingest(ctx, &caller, wanted, &uploads, out).await
        }
        Request::IngestInPlace { dataset, kind, expected } => {
            let wanted = publish::Wanted { dataset, kind, expected, in_place: true };
            publish::ingest(ctx, &caller, wanted, &uploads, out).await
        }
        Request::Backup { to, passphrase, users } => backup::make(ctx, &caller, to, passphrase, users, out).await,
        Request::Backups { at, passphrase } => backup::list(ctx, &caller, at, passphrase, out).await,
        Request::BackupVerify { at, passphrase, snapshot } => {
            backup::verify(ctx, &caller, at, passphrase, snapshot, out).await
        }
        Request::MayReference { files } => in_place::may_reference(ctx, &caller, files).await,
        Request::ReadAllOrOriginals { reference, paths } => {
            // Where files lie on this machine is told to those who are on it.
            let local = caller.uid.is_some();
            content::read_all(ctx, reference, paths, local, out).await
        }
        Request::Referenced { reference } => in_place::referenced(ctx, reference, out).await,
        Request::Fetch { reference } => content::fetch(ctx, reference, out).await,
        Request::Entries { reference } => content::entries(ctx, reference, out).await,
        Request::Read { reference, offset, len } => content::read_file(ctx, reference, (offset, len), out).await,
        Request::ReadAll { reference, paths } => content::read_all(ctx, reference, paths, false, out).await,
        Request::Peers => peers::list(ctx, out).await,
        Request::Connect { address } => peers::connect(ctx, &caller, address, out).await,
        Request::Disconnect { node } => peers::disconnect(ctx, &caller, node).await,
        Request::Config => admin::config(ctx, &caller, out).await,
        Request::Shutdown => admin::shutdown(ctx, &caller),
        Request::Workers => care::workers(ctx, out).await,
        Request::Gc { dry_run, min_age_s } => care::gc(ctx, &caller, (dry_run, min_age_s), out).await,
        Request::Scrub => care::scrub(ctx, &caller, out).await,
        Request::Rebuild => care::rebuild(ctx, &caller, out).await,
        Request::Verify { reference, repair } => care::verify(ctx, reference, repair, out).await,
        Request::Pin(reference) => care::pin(ctx, &caller, reference, out).await,
        Request::Unpin { what } => care::unpin(ctx, &caller, what, out).await,
        Request::Pins(paging) => care::pins(ctx, paging, out).await,
        Request::KeysStatus => keys::status(ctx, &caller, out).await,
        Request::KeysRotate { kek, data } => keys::rotate(ctx, &caller, (kek, data), out).await,
        Request::KeysSplit { threshold, total, to } => keys::split(ctx, &caller, (threshold, total), to, out).await,
    }
}
