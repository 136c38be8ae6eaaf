//! Shares on paper, boxes and wrapped keys: what must open years later.

use bib_core::key::SecretKey;
use bib_core::sealed::{open, seal, unwrap, wrap};
use bib_core::share::{ShareLine, combine};
use zeroize::Zeroizing;

use crate::fixture;

const INFO: &str = "bib/golden/1";

/// Lines that a build once made of the key 0, 7, 14 …; three of five.
const LINES: [(&str, &str); 4] = [
    (
        "share.1",
        "bibshare1-afqsa-43foq-qdami-bamcx-hqzfb-ypayo-tiwao-kixd3-toh7i-pgpgm-id7ha-jywy4-g4gbi-yi4zg-jmb5s-hpfaj",
    ),
    (
        "share.2",
        "bibshare1-afqsa-43foq-qdami-camcy-winia-4y5xw-ypsux-5u6rn-csx53-ksdnw-2htmh-kf662-jtmcu-wtpvf-fzzxf-5itdt",
    ),
    (
        "share.3",
        "bibshare1-afqsa-43foq-qdami-damc7-rzmdd-qz7js-2wdug-dq2yc-2rbeb-zx3ea-q4vp3-zjosm-qc76e-56ojv-codqj-xw3ua",
    ),
    (
        "sealed.5",
        "bibsealed1-afqsa-43foq-qdami-famcy-vchd3-v2at4-mv7vj-nwlj4-xjoxf-sthbg-7r3fa-sdpzx-jcabw-qhw6x-cquyk-atmo5-2azf5-gyww4-aoogp-jo4wa-oaald-plxq3-uqprs-t2icj-luj7t-jcuer-eqpdc-qa4us-7wtky-uycyy-cccjn-2cdct-5dcv4-4frac-r4vkl-nkhzr-3h6ch-l5aa4-p6ria-nl2np-jhnx5-xzm",
    ),
];

#[test]
fn shares_on_paper_still_make_the_key() {
    let lines: Vec<(String, String)> = LINES.map(|(name, line)| (name.to_owned(), line.to_owned())).to_vec();
    let read = |text: &str| ShareLine::parse(text).unwrap();
    let shares: Vec<_> = fixture("shares", &lines)
        .iter()
        .map(|(_, text)| {
            let line = read(text);
            let written = match &line {
                ShareLine::Plain(share) => share.to_text().to_string(),
                ShareLine::Sealed(share) => share.to_text(),
            };
            assert_eq!(&written, text, "{}", crate::ADVICE);
            match line {
                ShareLine::Plain(share) => share,
                ShareLine::Sealed(share) => share.open(&SecretKey::from_seed([1; 32])).unwrap(),
            }
        })
        .collect();
    let key: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 7).unwrap());
    assert_eq!(*combine(&shares[..3]).unwrap(), key);
    assert_eq!(*combine(&shares[1..]).unwrap(), key);
}

#[test]
fn boxes_and_wrapped_keys_still_open() {
    let owner = SecretKey::from_seed([1; 32]);
    let sealed = seal(&owner.public_bytes(), INFO, b"header", b"secret", Zeroizing::new([9; 32])).unwrap();
    let wrapped = wrap(&[1; 32], b"header", &[7; 32], [3; 12]);
    let today = [("box".to_owned(), crate::hex(&sealed)), ("wrapped".to_owned(), crate::hex(&wrapped))];
    let stored = fixture("sealed", &today);
    assert_eq!(stored, today, "{}", crate::ADVICE);
    let [sealed, wrapped] = [0, 1].map(|at| crate::unhex(&stored[at].1));
    assert_eq!(open(&owner, INFO, b"header", &sealed).unwrap().as_slice(), b"secret");
    assert_eq!(*unwrap(&[1; 32], b"header", &wrapped.try_into().unwrap()).unwrap(), [7; 32]);
}
