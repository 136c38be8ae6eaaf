use std::collections::BTreeSet;
use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};

use super::*;

/// Repeatable random numbers: BLAKE3 of a seed, read on and on.
struct Seeded(blake3::OutputReader);

impl Seeded {
    fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }
}

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(dst);
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

const SET: SetId = SetId(*b"a set 01");
const OTHER: SetId = SetId(*b"a set 02");

fn secret() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at * 7).unwrap())
}

fn three_of_five() -> Vec<Share> {
    split(&secret(), Scheme::new(3, 5).unwrap(), SET, &mut Seeded::new(1))
}

/// The shares with these numbers.
fn choose(shares: &[Share], numbers: &[u8]) -> Vec<Share> {
    numbers.iter().map(|number| shares[usize::from(*number) - 1].clone()).collect()
}

/// The share with another value and a check that fits it: what a person who wants to do harm can make.
fn forged(share: &Share) -> Share {
    let mut forged = share.clone();
    forged.value[5] ^= 0x40;
    forged
}

#[test]
fn all_ten_triples_of_five_restore_the_key_in_any_order() {
    let shares = three_of_five();
    let mut n_triples = 0;
    for a in 1..=5 {
        for b in a + 1..=5 {
            for c in b + 1..=5 {
                for order in [[a, b, c], [c, a, b], [b, c, a]] {
                    assert_eq!(*combine(&choose(&shares, &order)).unwrap(), secret(), "{order:?}");
                }
                n_triples += 1;
            }
        }
    }
    assert_eq!(n_triples, 10);
    assert_eq!(*combine(&shares).unwrap(), secret(), "more than needed do no harm");
}

#[test]
fn every_scheme_restores_with_its_last_shares() {
    for total in 2..=MAX_SHARES {
        for threshold in 2..=total {
            let scheme = Scheme::new(threshold, total).unwrap();
            let shares = split(&secret(), scheme, SET, &mut Seeded::new(u64::from(total)));
            assert_eq!(shares.len(), usize::from(total));
            let last = &shares[usize::from(total - threshold)..];
            assert_eq!(*combine(last).unwrap(), secret(), "{scheme:?}");
            assert!(matches!(combine(&last[1..]), Err(CombineError::Missing { .. })), "{scheme:?}");
        }
    }
    for (threshold, total) in [(0, 0), (0, 3), (1, 1), (1, 5), (4, 3), (2, 17), (255, 255)] {
        assert_eq!(Scheme::new(threshold, total), None, "{threshold} of {total}");
    }
}

#[test]
fn values_are_those_of_the_field_with_the_polynomial_0x11b() {
    // f(x) = s + a·x: two shares give a; a share of number 2 then has to be s + 2·a with 2·0x80 = 0x1b.
    let shares = split(&[0x35; 32], Scheme::new(2, 2).unwrap(), SET, &mut Seeded::new(3));
    let double = |a: u8| (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
    let mut reduced = 0;
    for (one, two) in shares[0].value.iter().zip(shares[1].value.iter()) {
        let a = one ^ 0x35;
        reduced += usize::from(a & 0x80 != 0);
        assert_eq!(*two, 0x35 ^ double(a));
    }
    assert!(reduced > 0, "some products are reduced");
}

/// Pearson's statistic of counts that should be equal.
fn chi_squared(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

/// With 255 degrees of freedom: exceeded by chance once in ten million.
const CHI_SQUARED_255: f64 = 397.0;

#[test]
fn pairs_of_shares_are_independent_of_the_secret() {
    // For each of several secrets, what a pair shows must be spread the same: every byte of a share uniformly, and every
    // linear mixture of the two (all that two points of a parabola could betray of its value at zero is such a mixture).
    let scheme = Scheme::new(3, 5).unwrap();
    let (n_splits, pairs) = (2_000, [(0, 1), (1, 4), (2, 3)]);
    for byte in [0_u8, 0x01, 0x80, 0xff, 0x5a] {
        let mut rng = Seeded::new(u64::from(byte));
        let mut counts = vec![[0_u32; 256]; pairs.len() * 4];
        for _ in 0..n_splits {
            let shares = split(&[byte; 32], scheme, SET, &mut rng);
            for (pair, (i, j)) in pairs.iter().enumerate() {
                let numbers = (Gf256(shares[*i].name.index), Gf256(shares[*j].name.index));
                for (a, b) in shares[*i].value.iter().zip(shares[*j].value.iter()) {
                    // What a line through the two points has at zero: the guess of someone who has a pair.
                    let at_zero = (Gf256(*a) * numbers.1 + Gf256(*b) * numbers.0) / (numbers.0 + numbers.1);
                    for (kind, seen) in [*a, *b, a ^ b, at_zero.0].into_iter().enumerate() {
                        counts[pair * 4 + kind][usize::from(seen)] += 1;
                    }
                }
            }
        }
        for (kind, counts) in counts.iter().enumerate() {
            let statistic = chi_squared(counts);
            assert!(statistic < CHI_SQUARED_255, "secret {byte:#x}, kind {kind}: {statistic}");
        }
    }
}

#[test]
fn pair_fits_every_secret_in_exactly_one_way() {
    // Given two shares, each value of a third one stands for another secret, and all secrets are reached: a pair rules
    // out none of them.
    let shares = three_of_five();
    let mut third = shares[4].clone();
    let mut seen = [false; 256];
    for value in 0..=255 {
        third.value[0] = value;
        let key = combine(&[shares[0].clone(), shares[3].clone(), third.clone()]).unwrap();
        seen[usize::from(key[0])] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
}

#[test]
fn the_test_of_independence_sees_a_bias() {
    // Coefficients that are never even: what a crate once did. The same statistic must show it.
    struct Odd(Seeded);
    impl TryRng for Odd {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            self.0.try_next_u32().map(|word| word | 1)
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            self.0.try_next_u64().map(|word| word | 1)
        }
        fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
            self.0.try_fill_bytes(dst)?;
            dst.iter_mut().for_each(|byte| *byte |= 1);
            Ok(())
        }
    }
    impl TryCryptoRng for Odd {}
    let mut rng = Odd(Seeded::new(1));
    let mut counts = [0_u32; 256];
    for _ in 0..2_000 {
        let shares = split(&[0x5a; 32], Scheme::new(3, 5).unwrap(), SET, &mut rng);
        shares[0].value.iter().for_each(|seen| counts[usize::from(*seen)] += 1);
    }
    assert!(chi_squared(&counts) > CHI_SQUARED_255 * 10.0);
}

#[test]
fn shares_that_do_not_belong_together_are_named() {
    let shares = three_of_five();
    assert_eq!(combine(&[]).unwrap_err(), CombineError::Missing { have: 0, need: 2 });
    assert_eq!(combine(&choose(&shares, &[2, 4])).unwrap_err(), CombineError::Missing { have: 2, need: 3 });
    assert_eq!(combine(&choose(&shares, &[2, 4, 2])).unwrap_err(), CombineError::Twice { index: 2 });
    let others = split(&secret(), Scheme::new(3, 5).unwrap(), OTHER, &mut Seeded::new(2));
    let mixed = [choose(&shares, &[1, 2]), choose(&others, &[3])].concat();
    assert_eq!(combine(&mixed).unwrap_err(), CombineError::Mixed { first: SET, other: OTHER });
    let contradicting = [choose(&shares, &[1, 2, 3]), vec![forged(&shares[0])]].concat();
    assert_eq!(combine(&contradicting).unwrap_err(), CombineError::Contradiction { set: SET, index: 1 });
    let lax = split(&secret(), Scheme::new(2, 5).unwrap(), SET, &mut Seeded::new(2));
    let contradicting = [choose(&shares, &[1, 2]), choose(&lax, &[3])].concat();
    assert_eq!(combine(&contradicting).unwrap_err(), CombineError::Contradiction { set: SET, index: 3 });
}

#[test]
fn forged_share_is_named_when_there_are_more_than_needed() {
    let shares = three_of_five();
    let is_right = |key: &[u8; 32]| *key == secret();
    for wrong in 1..=5 {
        let mut given = shares.clone();
        given[usize::from(wrong) - 1] = forged(&shares[usize::from(wrong) - 1]);
        let combined = combine_checked(&given, is_right).unwrap();
        assert_eq!((*combined.key, combined.wrong), (secret(), vec![wrong]));
    }
    let two = [choose(&shares, &[2, 3, 5]), vec![forged(&shares[0]), forged(&shares[3])]].concat();
    assert_eq!(combine_checked(&two, is_right).unwrap().wrong, [1, 4]);
    let too_many = [choose(&shares, &[2, 3]), vec![forged(&shares[0]), forged(&shares[3])]].concat();
    assert_eq!(combine_checked(&too_many, is_right).unwrap_err(), CombineError::WrongKey { set: SET });
    let whole = combine_checked(&shares, is_right).unwrap();
    assert!(whole.wrong.is_empty());
}

#[test]
fn share_survives_paper() {
    for share in three_of_five() {
        let text = share.to_text();
        assert_eq!(ShareLine::parse(&text), Ok(ShareLine::Plain(share.clone())));
        let letters = text.split_once('-').unwrap().1.to_owned();
        assert_eq!(letters.split('-').map(str::len).collect::<BTreeSet<_>>(), BTreeSet::from([5]));
        let typed = [
            text.to_uppercase(),
            text.replace('-', " "),
            text.replace('-', ""),
            format!("  {}\t\r\n", text.replace('-', "  ")),
            format!("bibshare1-{}", letters.replace('o', "0").replace('b', "8")),
        ];
        for typed in typed {
            assert_eq!(ShareLine::parse(&typed), Ok(ShareLine::Plain(share.clone())), "{typed}");
        }
    }
}

#[test]
fn mistyped_letter_is_found_and_its_group_named() {
    let text = three_of_five()[2].to_text();
    let start = text.find('-').unwrap();
    for at in start..text.len() {
        if text.as_bytes()[at] == b'-' {
            continue;
        }
        let mut typed = text.to_string();
        let other = if &typed[at..=at] == "x" { "y" } else { "x" };
        typed.replace_range(at..=at, other);
        let group = text[start..at].matches('-').count();
        assert_eq!(ShareLine::parse(&typed), Err(ShareError::Damaged { group: Some(group) }), "{typed}");
    }
    let mut two = text.to_string();
    two.replace_range(start + 1..=start + 1, if &text[start + 1..=start + 1] == "x" { "y" } else { "x" });
    two.replace_range(start + 7..=start + 7, if &text[start + 7..=start + 7] == "x" { "y" } else { "x" });
    assert_eq!(ShareLine::parse(&two), Err(ShareError::Damaged { group: None }));
}

#[test]
fn texts_that_are_no_shares_are_told_apart() {
    let text = three_of_five()[0].to_text();
    let refused = |text: &str| ShareLine::parse(text).unwrap_err();
    assert_eq!(refused(""), ShareError::Foreign);
    assert_eq!(refused("correct horse battery staple"), ShareError::Foreign);
    assert_eq!(refused(&"bibshare1-".repeat(1_000)), ShareError::Foreign);
    assert_eq!(refused(&text[..text.len() - 1]), ShareError::Length { have: 79, need: 80 });
    assert_eq!(refused(&format!("{}a", *text)), ShareError::Length { have: 81, need: 80 });
    assert_eq!(refused("bibshare1-abcde-fg1ij"), ShareError::Letter { character: '1', group: 2 });
    assert_eq!(refused("bibshare1-äbcde"), ShareError::Letter { character: 'ä', group: 1 });
    assert!(refused("bibshare1-abcde-fg1ij").to_string().contains("`1` in group 2"));
}

#[test]
fn remarks_and_empty_lines_between_shares_are_passed_over() {
    let shares = three_of_five();
    let text =
        format!("# share 1 of 5\n{}\n\n  # more\r\n  {}\nnonsense\n", *shares[0].to_text(), *shares[1].to_text());
    let read: Vec<_> = lines(&text).collect();
    assert_eq!(read[0], (2, Ok(ShareLine::Plain(shares[0].clone()))));
    assert_eq!(read[1], (5, Ok(ShareLine::Plain(shares[1].clone()))));
    assert_eq!(read[2..], [(6, Err(ShareError::Foreign))]);
}

#[test]
fn newer_and_impossible_shares_are_refused() {
    let share = &three_of_five()[0];
    let mut newer = vec![2];
    newer.extend_from_slice(&share.name.bytes());
    newer.extend_from_slice(share.value.as_slice());
    let newer = text::line_for_test(newer);
    assert_eq!(ShareLine::parse(&newer), Err(ShareError::Unsupported { version: 2 }));
    for (index, threshold, total) in [(0, 3, 5), (6, 3, 5), (1, 1, 5), (1, 6, 5), (1, 3, 17)] {
        let mut name = share.name.bytes();
        name[8..].copy_from_slice(&[index, threshold, total]);
        let mut body = vec![1];
        body.extend_from_slice(&name);
        body.extend_from_slice(share.value.as_slice());
        assert_eq!(ShareLine::parse(&text::line_for_test(body)), Err(ShareError::Impossible));
    }
}

#[test]
fn sealed_share_opens_for_its_user_alone() {
    let (ann, bob) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
    let share = &three_of_five()[3];
    let sealed = share.seal_to(&ann.user_id(), Zeroizing::new([5; 32])).unwrap();
    let ShareLine::Sealed(read) = ShareLine::parse(&sealed.to_text()).unwrap() else { panic!("a sealed share") };
    assert_eq!((read.user(), read.name()), (&ann.user_id(), share.name()));
    assert_eq!(read.open(&ann).as_ref(), Ok(share));
    assert_eq!(read.open(&bob), Err(SealError::Closed));
    let relabelled = SealedShare { name: ShareName { index: 2, ..read.name }, ..read.clone() };
    assert_eq!(relabelled.open(&ann), Err(SealError::Closed));
    let nobody = share.seal_to(&UserId::from_bytes([0; 32]), Zeroizing::new([5; 32]));
    assert_eq!(nobody, Err(SealError::WeakKey));
}

#[test]
fn nothing_secret_is_shown_by_debug() {
    let share = three_of_five()[0].clone();
    let shown = format!("{share:?} {:?}", ShareLine::Plain(share.clone()));
    let value: Vec<String> = share.value.iter().map(u8::to_string).collect();
    assert!(!shown.contains(&value[..4].join(", ")), "{shown}");
}
