//! BLAKE3 as its paper describes it, without any trick: a second opinion about content ids that shares no code with
//! what bib uses.

/// Bytes of a chunk, the leaf of the tree.
const CHUNK: usize = 1_024;
/// Bytes that one compression takes.
const BLOCK: usize = 64;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;

/// The first 32 bits of the fractions of the square roots of the first eight primes, as in SHA-256.
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// Where each word of the message goes between two rounds.
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];

/// The hash of `bytes` as lower-case hex, as `b3sum` prints it.
pub fn hex(bytes: &[u8]) -> String {
    root(bytes).iter().flat_map(|word| word.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
}

fn root(bytes: &[u8]) -> [u32; 8] {
    if bytes.len() <= CHUNK {
        return leaf(bytes, 0, ROOT);
    }
    let (left, right) = bytes.split_at(left_len(bytes.len()));
    let n_left = (left.len() / CHUNK) as u64;
    parent(subtree(left, 0), subtree(right, n_left), ROOT)
}

fn subtree(bytes: &[u8], first_chunk: u64) -> [u32; 8] {
    if bytes.len() <= CHUNK {
        return leaf(bytes, first_chunk, 0);
    }
    let (left, right) = bytes.split_at(left_len(bytes.len()));
    let n_left = (left.len() / CHUNK) as u64;
    parent(subtree(left, first_chunk), subtree(right, first_chunk + n_left), 0)
}

/// The left side holds the largest power of two of whole chunks that leaves something to the right.
fn left_len(len: usize) -> usize {
    let chunks = (len - 1) / CHUNK;
    CHUNK << chunks.ilog2()
}

fn leaf(bytes: &[u8], counter: u64, last_flags: u32) -> [u32; 8] {
    let mut value = IV;
    let n_blocks = bytes.len().div_ceil(BLOCK).max(1);
    for n in 0..n_blocks {
        let block = &bytes[n * BLOCK..bytes.len().min((n + 1) * BLOCK)];
        let mut flags = if n == 0 { CHUNK_START } else { 0 };
        if n + 1 == n_blocks {
            flags |= CHUNK_END | last_flags;
        }
        value = compress(value, words(block), counter, u32::try_from(block.len()).unwrap_or(0), flags);
    }
    value
}

fn parent(left: [u32; 8], right: [u32; 8], flags: u32) -> [u32; 8] {
    let mut message = [0; 16];
    message[..8].copy_from_slice(&left);
    message[8..].copy_from_slice(&right);
    compress(IV, message, 0, 64, PARENT | flags)
}

fn words(block: &[u8]) -> [u32; 16] {
    let mut padded = [0; BLOCK];
    padded[..block.len()].copy_from_slice(block);
    std::array::from_fn(|n| u32::from_le_bytes(std::array::from_fn(|m| padded[4 * n + m])))
}

fn compress(value: [u32; 8], mut message: [u32; 16], counter: u64, len: u32, flags: u32) -> [u32; 8] {
    let mut state = [0; 16];
    state[..8].copy_from_slice(&value);
    state[8..12].copy_from_slice(&IV[..4]);
    state[12] = (counter & 0xffff_ffff) as u32;
    state[13] = (counter >> 32) as u32;
    state[14] = len;
    state[15] = flags;
    for round in 0..7 {
        for (n, [a, b, c, d]) in COLUMNS_THEN_DIAGONALS.into_iter().enumerate() {
            mix(&mut state, [a, b, c, d], message[2 * n], message[2 * n + 1]);
        }
        if round < 6 {
            message = PERMUTATION.map(|from| message[from]);
        }
    }
    std::array::from_fn(|n| state[n] ^ state[n + 8])
}

const COLUMNS_THEN_DIAGONALS: [[usize; 4]; 8] = [
    [0, 4, 8, 12],
    [1, 5, 9, 13],
    [2, 6, 10, 14],
    [3, 7, 11, 15],
    [0, 5, 10, 15],
    [1, 6, 11, 12],
    [2, 7, 8, 13],
    [3, 4, 9, 14],
];

fn mix(state: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    for (message, first, second) in [(x, 16, 12), (y, 8, 7)] {
        state[a] = state[a].wrapping_add(state[b]).wrapping_add(message);
        state[d] = (state[d] ^ state[a]).rotate_right(first);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_right(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_agrees_with_the_published_implementation_at_every_shape_of_the_tree() {
        let bytes: Vec<u8> = (0..70_000u32).map(|n| (n % 251) as u8).collect();
        for len in [0, 1, 63, 64, 65, 1_023, 1_024, 1_025, 2_048, 2_049, 3_072, 3_073, 5_120, 31_744, 65_536, 70_000] {
            assert_eq!(hex(&bytes[..len]), blake3::hash(&bytes[..len]).to_hex().as_str(), "{len} bytes");
        }
    }
}
