//! Texts in Huffman code (RFC 7541 §5.2), read four bits at a time.

use super::Error;

/// The text, which is at most 8/5 as long.
///
/// # Errors
/// When the end mark is in it, or what fills the last octet is not the start of that mark.
pub(super) fn decode(code: &[u8]) -> Result<Vec<u8>, Error> {
    let mut text = Vec::with_capacity(code.len() * 8 / 5);
    let mut node = 0;
    for octet in code {
        for bits in [octet >> 4, octet & 0xf] {
            let step = STEPS[usize::from(node)][usize::from(bits)];
            match step.gives {
                Gives::Nothing => {}
                Gives::Symbol => text.push(step.symbol),
                Gives::End => return Err(Error::Huffman),
            }
            node = step.node;
        }
    }
    match FILLING[usize::from(node)] {
        true => Ok(text),
        false => Err(Error::Huffman),
    }
}

/// Where four bits lead from a node of the code's tree, and what was complete on the way: as no code is shorter than
/// five bits, that is one symbol at most.
#[derive(Clone, Copy)]
struct Step {
    node: u8,
    gives: Gives,
    symbol: u8,
}

#[derive(Clone, Copy)]
enum Gives {
    Nothing,
    Symbol,
    End,
}

/// A branch that leads to a symbol and not to another node.
const SYMBOL: u16 = 1 << 9;
const END: u16 = SYMBOL | 256;
/// One fewer than there are symbols, as in every such tree; the root is the first.
const NODES: usize = LENGTHS.len() - 1;
const LONGEST: u8 = 30;

/// Where a one and a zero lead from each node.
const TREE: [[u16; 2]; NODES] = tree();
static STEPS: [[Step; 16]; NODES] = steps();
/// Whether a text may end at the node: fewer than eight ones lead there (RFC 7541 §5.2).
static FILLING: [bool; NODES] = filling();

const fn tree() -> [[u16; 2]; NODES] {
    let mut tree = [[0; 2]; NODES];
    let (mut nodes, mut code, mut length) = (1, 0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while (symbol as usize) < LENGTHS.len() {
            if LENGTHS[symbol as usize] == length {
                nodes = grown(&mut tree, nodes, (code, length), SYMBOL | symbol);
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    tree
}

/// Adds a symbol; gives how many nodes there are now.
const fn grown(tree: &mut [[u16; 2]; NODES], mut nodes: u16, code: (u32, u8), symbol: u16) -> u16 {
    let (code, mut left) = code;
    let mut node = 0;
    while left > 1 {
        left -= 1;
        let branch = &mut tree[node][(code >> left & 1) as usize];
        // No branch leads back to the root.
        if *branch == 0 {
            *branch = nodes;
            nodes += 1;
        }
        node = *branch as usize;
    }
    tree[node][(code & 1) as usize] = symbol;
    nodes
}

const fn steps() -> [[Step; 16]; NODES] {
    let mut steps = [[step(0, 0); 16]; NODES];
    let mut at = 0;
    while (at as usize) < NODES * 16 {
        steps[at as usize / 16][at as usize % 16] = step(at / 16, at % 16);
        at += 1;
    }
    steps
}

const fn step(node: u16, bits: u16) -> Step {
    let (mut at, mut gives, mut symbol, mut left) = (node, Gives::Nothing, 0, 4);
    while left > 0 {
        left -= 1;
        at = TREE[at as usize][(bits >> left & 1) as usize];
        if at >= SYMBOL {
            gives = match at {
                END => Gives::End,
                _ => Gives::Symbol,
            };
            symbol = (at & 0xff) as u8;
            at = 0;
        }
    }
    let node = (at & 0xff) as u8;
    Step { node, gives, symbol }
}

const fn filling() -> [bool; NODES] {
    let mut filling = [false; NODES];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        filling[node] = true;
        node = TREE[node][1] as usize;
        ones += 1;
    }
    filling
}

/// The bits of each symbol's code, the end mark's last. The codes themselves follow from them: they go up with the
/// length and, at the same length, with the symbol.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
    7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7,
    7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23,
    24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24,
    20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// One code of each length, as RFC 7541 Appendix B has them.
    const CODES: [(u8, u64, u32); 21] = [
        (b'0', 0x0, 5),
        (b' ', 0x14, 6),
        (b':', 0x5c, 7),
        (b'&', 0xf8, 8),
        (b'!', 0x3f8, 10),
        (b'+', 0x7fb, 11),
        (b'#', 0xffa, 12),
        (0, 0x1ff8, 13),
        (b'^', 0x3ffc, 14),
        (b'<', 0x7ffc, 15),
        (b'\\', 0x7fff0, 19),
        (0x80, 0xfffe6, 20),
        (0x99, 0x1f_ffdc, 21),
        (0x81, 0x3f_ffd2, 22),
        (1, 0x7f_ffd8, 23),
        (9, 0xff_ffea, 24),
        (0xc7, 0x1ff_ffec, 25),
        (0xc0, 0x3ff_ffe0, 26),
        (0xcb, 0x7ff_ffde, 27),
        (2, 0xfff_ffe2, 28),
        (10, 0x3fff_fffc, 30),
    ];

    #[test]
    fn codes_of_every_length_are_read() {
        for (symbol, code, bits) in CODES {
            let ones = u64::MAX >> bits;
            let filled = (code << (64 - bits) | ones).to_be_bytes();
            let octets = bits.div_ceil(8) as usize;
            assert_eq!(decode(&filled[..octets]), Ok(vec![symbol]), "{symbol}");
            assert_eq!(decode(&filled[..octets + 1]), Err(Error::Huffman), "{symbol}");
        }
        assert_eq!(decode(&[]), Ok(vec![]));
    }
}
