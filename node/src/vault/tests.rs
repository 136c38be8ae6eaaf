use std::os::unix::fs::PermissionsExt;

use bib_core::share::ShareLine;

use super::*;

const NOW: Timestamp = Timestamp(1_795_530_245_000_000);

fn node(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// A data directory with keys of the node 1.
fn made() -> (tempfile::TempDir, Vault) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::create(dir.path(), &node(1), NOW).unwrap();
    (dir, vault)
}

fn file(dir: &tempfile::TempDir) -> PathBuf {
    path(dir.path())
}

fn open(dir: &tempfile::TempDir) -> Vault {
    Vault::open(dir.path(), &node(1)).unwrap().unwrap()
}

fn rng() -> rand_core::UnwrapErr<getrandom::SysRng> {
    rand_core::UnwrapErr(getrandom::SysRng)
}

fn three_of_five(vault: &Vault) -> Vec<Share> {
    vault.split(Scheme::new(3, 5).unwrap(), NOW, &mut rng()).unwrap()
}

#[test]
fn keys_are_made_once_and_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Vault::open(dir.path(), &node(1)).unwrap().is_none());
    let vault = Vault::create(dir.path(), &node(1), NOW).unwrap();
    assert_eq!(std::fs::metadata(file(&dir)).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::metadata(dir.path().join(FOLDER)).unwrap().mode() & 0o7777, 0o700);
    assert!(Vault::is_in(dir.path()));
    let again = open(&dir);
    assert_eq!(again.keyring().unwrap().checks(), vault.keyring().unwrap().checks());
    assert_eq!(again.figures(), vault.figures());
    let figures = again.figures();
    assert_eq!((figures.generation, figures.data_keys, figures.split), (1, vec![(1, NOW)], None));
    let (_, other) = made();
    let (one, other) = (vault.keyring().unwrap().checks(), other.keyring().unwrap().checks());
    assert!(one.keys().all(|name| one[name] != other[name]), "keys of two nodes differ");
}

#[test]
fn keys_of_another_node_are_refused_and_left_alone() {
    let (dir, _) = made();
    let before = std::fs::read(file(&dir)).unwrap();
    let refused = Vault::open(dir.path(), &node(2)).unwrap_err();
    assert!(matches!(&refused, VaultError::OtherNode { owner, .. } if *owner == node(1).node_id()), "{refused}");
    assert!(refused.hint().contains("bib admin keys recover"));
    assert_eq!(std::fs::read(file(&dir)).unwrap(), before);
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let (dir, _) = made();
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(file(&dir), PermissionsExt::from_mode(mode)).unwrap();
        let refused = Vault::open(dir.path(), &node(1)).unwrap_err();
        assert!(matches!(refused, VaultError::TooWide { mode: found, .. } if found == mode), "{refused}");
        assert!(refused.hint().contains("chmod 600"));
    }
}

#[test]
fn file_that_is_cut_or_flipped_anywhere_is_refused_and_left_alone() {
    let (dir, vault) = made();
    three_of_five(&vault);
    let whole = std::fs::read(file(&dir)).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(file(&dir), bytes).unwrap();
        let refused = Vault::open(dir.path(), &node(1));
        assert!(matches!(refused, Err(VaultError::Damaged { .. })), "{what}: {refused:?}");
        assert_eq!(std::fs::read(file(&dir)).unwrap(), bytes);
    };
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        refused(&flipped, &format!("flipped at {at}"));
        refused(&whole[..at], &format!("cut at {at}"));
    }
    refused(&[whole.as_slice(), b"x"].concat(), "longer");
    refused(&vec![b'x'; MAX_VAULT_LEN + 10], "far longer");
    std::fs::remove_file(file(&dir)).unwrap();
    std::fs::create_dir(file(&dir)).unwrap();
    assert!(matches!(Vault::open(dir.path(), &node(1)), Err(VaultError::Damaged { .. })));
}

#[test]
fn file_of_a_newer_version_is_told_from_a_damaged_one() {
    let (dir, _) = made();
    let mut bytes = std::fs::read(file(&dir)).unwrap();
    bytes[7] = 2;
    let end = bytes.len() - 16;
    let sum: [u8; 16] = *bib_core::hash::hash(&bytes[..end]).first_chunk().unwrap();
    bytes[end..].copy_from_slice(&sum);
    std::fs::write(file(&dir), &bytes).unwrap();
    let refused = Vault::open(dir.path(), &node(1)).unwrap_err();
    assert!(matches!(refused, VaultError::Unsupported { version: 2, .. }), "{refused}");
}

#[test]
fn file_that_was_changed_with_its_checksum_put_right_is_refused() {
    let (dir, vault) = made();
    let shares = three_of_five(&vault);
    let whole = std::fs::read(file(&dir)).unwrap();
    let end = whole.len() - 16;
    let mut n_read = 0;
    for at in 8..end {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let sum: [u8; 16] = *bib_core::hash::hash(&changed[..end]).first_chunk().unwrap();
        changed[end..].copy_from_slice(&sum);
        n_read += usize::from(Body::decode(&changed).is_ok());
        std::fs::write(file(&dir), &changed).unwrap();
        assert!(Vault::open(dir.path(), &node(1)).is_err(), "byte {at}");
        let recovered = Vault::recover(dir.path(), &shares, &node(2));
        assert!(recovered.is_err(), "byte {at}");
        assert_eq!(std::fs::read(file(&dir)).unwrap(), changed, "byte {at}");
    }
    assert!(n_read > end / 2, "most changes are seen by the tag, not by the form: {n_read} of {end}");
}

#[test]
fn new_key_of_keys_wraps_the_same_keys() {
    let (dir, vault) = made();
    let (keys, before) = (vault.keyring().unwrap().checks(), vault.figures());
    let old_file = std::fs::read(file(&dir)).unwrap();
    assert_eq!(vault.rotate_kek().unwrap(), 2);
    let after = open(&dir);
    assert_eq!(after.keyring().unwrap().checks(), keys);
    assert_eq!(after.figures(), vault.figures());
    assert_ne!(after.figures().fingerprint, before.fingerprint);
    // Nothing of the old wrapping is kept: no 16 bytes of old ciphertext are in the new file.
    let new_file = std::fs::read(file(&dir)).unwrap();
    let old = Body::decode(&old_file).unwrap().body;
    for wrapped in [&old.index_key, &old.catalog_key, &old.data_keys[0].wrapped] {
        assert!(!new_file.windows(16).any(|window| window == &wrapped[12..28]));
    }
}

#[test]
fn new_data_key_is_on_the_disk_before_it_serves() {
    let (dir, vault) = made();
    let keyring = vault.keyring().unwrap();
    let later = Timestamp(NOW.0 + 1);
    assert_eq!(vault.rotate_data_key(&keyring, later).unwrap(), 2);
    assert_eq!(keyring.newest(), 2);
    let again = open(&dir);
    assert_eq!(again.keyring().unwrap().checks(), keyring.checks());
    assert_eq!(again.figures().data_keys, [(1, NOW), (2, later)]);
    // The file cannot be replaced: the stores go on with the key that is in it.
    let obstacle = dir.path().join(FOLDER).join(UNFINISHED);
    std::fs::create_dir_all(obstacle.join("not empty")).unwrap();
    assert!(matches!(vault.rotate_data_key(&keyring, later), Err(VaultError::Io { .. })));
    assert!(matches!(vault.rotate_kek(), Err(VaultError::Io { .. })));
    assert!(vault.split(Scheme::new(2, 3).unwrap(), later, &mut rng()).is_err());
    assert_eq!((keyring.newest(), vault.figures()), (2, again.figures()));
    std::fs::remove_dir_all(obstacle).unwrap();
    assert_eq!(vault.rotate_data_key(&keyring, later).unwrap(), 3);
}

#[test]
fn data_keys_have_a_bound_and_the_newest_goes_on_to_serve() {
    let (dir, vault) = made();
    let keyring = vault.keyring().unwrap();
    {
        let mut body = vault.body();
        let kek = vault.kek(&body).unwrap();
        let mut next = body.clone();
        let wrapped = |id: u32| rewrapped(&kek, &data_key_header(id), &[7; 32]).unwrap();
        next.data_keys.extend((2..=u32::try_from(MAX_DATA_KEYS).unwrap()).map(|id| DataKey {
            id,
            created: NOW,
            wrapped: wrapped(id),
        }));
        vault.replace(&mut body, next, &kek).unwrap();
    }
    assert!(matches!(vault.rotate_data_key(&keyring, NOW), Err(VaultError::TooMany)));
    assert!(std::fs::metadata(file(&dir)).unwrap().len() < MAX_VAULT_LEN as u64);
    assert_eq!(open(&dir).keyring().unwrap().newest() as usize, MAX_DATA_KEYS);
}

#[test]
fn three_shares_open_the_keys_for_another_node() {
    let (dir, vault) = made();
    let keys = vault.keyring().unwrap().checks();
    let shares = three_of_five(&vault);
    let recovered = Vault::recover(dir.path(), &[shares[4].clone(), shares[0].clone(), shares[2].clone()], &node(2));
    assert_eq!(recovered.unwrap(), Recovered { before: node(1).node_id(), wrong: Vec::new() });
    let restored = Vault::open(dir.path(), &node(2)).unwrap().unwrap();
    assert_eq!(restored.keyring().unwrap().checks(), keys);
    let split = restored.figures().split.unwrap();
    assert_eq!((split.set, split.is_stale), (shares[0].name().set, false));
    assert!(matches!(Vault::open(dir.path(), &node(1)), Err(VaultError::OtherNode { .. })));
}

#[test]
fn each_of_the_ten_triples_of_five_opens_the_keys_and_no_pair_does() {
    let (dir, vault) = made();
    let keys = vault.keyring().unwrap().checks();
    let shares = three_of_five(&vault);
    let mut owner = 10;
    for a in 0..5 {
        for b in a + 1..5 {
            let pair = Vault::recover(dir.path(), &[shares[a].clone(), shares[b].clone()], &node(owner));
            assert!(matches!(pair, Err(VaultError::Shares { source: CombineError::Missing { have: 2, need: 3 }, .. })));
            for c in b + 1..5 {
                owner += 1;
                let triple = [shares[c].clone(), shares[a].clone(), shares[b].clone()];
                Vault::recover(dir.path(), &triple, &node(owner)).unwrap();
                let restored = Vault::open(dir.path(), &node(owner)).unwrap().unwrap();
                assert_eq!(restored.keyring().unwrap().checks(), keys, "{a} {b} {c}");
            }
        }
    }
    assert_eq!(owner, 20);
}

#[test]
fn shares_that_do_not_suffice_change_nothing() {
    let (dir, vault) = made();
    let shares = three_of_five(&vault);
    let before = std::fs::read(file(&dir)).unwrap();
    let refused = |shares: &[Share]| {
        let refused = Vault::recover(dir.path(), shares, &node(2)).unwrap_err();
        assert_eq!(std::fs::read(file(&dir)).unwrap(), before);
        assert!(!refused.hint().is_empty());
        refused.to_string()
    };
    assert_eq!(refused(&shares[..2]), "2 of the 3 shares that are needed are there");
    assert_eq!(refused(&[]), "0 of the 2 shares that are needed are there");
    let (_other_dir, other) = made();
    assert!(refused(&three_of_five(&other)).contains("of an older key or of another node"));
    let mixed = [shares[0].clone(), shares[1].clone(), three_of_five(&other)[2].clone()];
    assert!(refused(&mixed).contains("different sets"));
    let empty = tempfile::tempdir().unwrap();
    let absent = Vault::recover(empty.path(), &shares, &node(2)).unwrap_err();
    assert!(matches!(absent, VaultError::Absent { .. }), "{absent}");
}

#[test]
fn new_key_of_keys_makes_old_shares_stale_and_a_new_set_does_not() {
    let (dir, vault) = made();
    let (first, second) = (three_of_five(&vault), three_of_five(&vault));
    Vault::recover(dir.path(), &first[..3], &node(1)).unwrap();
    let vault = open(&dir);
    assert_eq!(vault.figures().split.unwrap().set, second[0].name().set);
    vault.rotate_kek().unwrap();
    assert!(vault.figures().split.unwrap().is_stale);
    let refused = Vault::recover(dir.path(), &second, &node(2)).unwrap_err();
    assert!(refused.to_string().contains("was renewed after they were made"), "{refused}");
    let third = three_of_five(&vault);
    assert!(!vault.figures().split.unwrap().is_stale);
    Vault::recover(dir.path(), &third[2..], &node(2)).unwrap();
}

#[test]
fn forged_share_is_named_and_passed_over_when_there_are_enough() {
    let (dir, vault) = made();
    let shares = three_of_five(&vault);
    let (_other_dir, other) = made();
    // A share of another key that says it is of this set: whole, and wrong.
    let foreign = share::split(&[9; 32], Scheme::new(3, 5).unwrap(), shares[0].name().set, &mut rng());
    drop(other);
    let given = [shares[0].clone(), foreign[1].clone(), shares[3].clone(), shares[4].clone()];
    let refused = Vault::recover(dir.path(), &given[..3], &node(2)).unwrap_err();
    assert!(refused.to_string().contains("changed on purpose"), "{refused}");
    let recovered = Vault::recover(dir.path(), &given, &node(2)).unwrap();
    assert_eq!(recovered.wrong, [2]);
}

#[test]
fn copy_follows_every_change_and_takes_the_place_of_a_damaged_file() {
    let (dir, vault) = made();
    let copy = dir.path().join(FOLDER).join(COPY);
    let is_same = || assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(file(&dir)).unwrap());
    is_same();
    let keyring = vault.keyring().unwrap();
    vault.rotate_data_key(&keyring, NOW).unwrap();
    is_same();
    vault.rotate_kek().unwrap();
    is_same();
    let shares = three_of_five(&vault);
    is_same();
    assert_eq!(std::fs::metadata(&copy).unwrap().mode() & 0o7777, 0o600);
    // A start mends it.
    std::fs::write(&copy, b"old").unwrap();
    let vault = open(&dir);
    assert_eq!(std::fs::read(&copy).unwrap(), b"old", "not before the keys have opened something");
    vault.mend_copy();
    is_same();
    std::fs::remove_file(&copy).unwrap();
    assert!(!Vault::has_copy(dir.path()));
    vault.mend_copy();
    is_same();
    // And people put it in place of the file, as the hint says.
    std::fs::write(file(&dir), b"bibkeys\x01and then nothing").unwrap();
    let refused = Vault::open(dir.path(), &node(1)).unwrap_err();
    assert!(refused.hint().contains("store.keys.copy"), "{}", refused.hint());
    std::fs::copy(&copy, file(&dir)).unwrap();
    assert_eq!(open(&dir).keyring().unwrap().checks(), keyring.checks());
    // Recovered by shares, both are sealed to the new node.
    Vault::recover(dir.path(), &shares[..3], &node(2)).unwrap();
    is_same();
}

#[test]
fn what_an_interrupted_change_left_is_no_obstacle() {
    let (dir, vault) = made();
    std::fs::write(dir.path().join(FOLDER).join(UNFINISHED), "half").unwrap();
    assert_eq!(open(&dir).figures(), vault.figures());
    vault.rotate_kek().unwrap();
    assert!(!dir.path().join(FOLDER).join(UNFINISHED).exists());
}

/// What a build once wrote: the keys of the node of the seed 1, after a new data key, a split and a new KEK.
#[test]
fn file_that_an_earlier_build_wrote_opens() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1");
    if std::env::var_os("BIB_BLESS").is_some() {
        std::fs::create_dir_all(&fixture).unwrap();
        let vault = Vault::create(&fixture, &node(1), NOW).unwrap();
        let keyring = vault.keyring().unwrap();
        vault.rotate_data_key(&keyring, Timestamp(NOW.0 + 1)).unwrap();
        vault.rotate_kek().unwrap();
        let shares: String = three_of_five(&vault).iter().map(|share| format!("{}\n", *share.to_text())).collect();
        std::fs::write(fixture.join("shares.txt"), shares).unwrap();
        let checks: String =
            keyring.checks().iter().map(|(name, value)| format!("{name} {}\n", HEXLOWER.encode(value))).collect();
        std::fs::write(fixture.join("checks.txt"), checks).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(FOLDER)).unwrap();
    std::fs::copy(path(&fixture), file(&dir)).unwrap();
    std::fs::set_permissions(file(&dir), PermissionsExt::from_mode(0o600)).unwrap();
    let is_whole = |vault: &Vault| {
        let checks = vault.keyring().unwrap().checks();
        let lines: String = checks.iter().map(|(name, value)| format!("{name} {}\n", HEXLOWER.encode(value))).collect();
        assert_eq!(lines, std::fs::read_to_string(fixture.join("checks.txt")).unwrap());
        assert_eq!(vault.figures().data_keys, [(1, NOW), (2, Timestamp(NOW.0 + 1))]);
        assert_eq!(vault.figures().generation, 2);
    };
    is_whole(&open(&dir));
    let bytes = std::fs::read(file(&dir)).unwrap();
    let (vault, whole) = (open(&dir), Body::decode(&bytes).unwrap());
    let kek = vault.kek(&whole.body).unwrap();
    assert_eq!(whole.body.encode(&kek), bytes, "the form of the file changed: that takes a new version");
    let lines = std::fs::read_to_string(fixture.join("shares.txt")).unwrap();
    let shares = lines.lines().map(|line| match ShareLine::parse(line).unwrap() {
        ShareLine::Plain(share) => share,
        ShareLine::Sealed(_) => panic!("plain shares"),
    });
    let shares: Vec<Share> = shares.collect();
    Vault::recover(dir.path(), &shares[2..], &node(3)).unwrap();
    is_whole(&Vault::open(dir.path(), &node(3)).unwrap().unwrap());
}
