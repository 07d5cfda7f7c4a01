//! Machine code of functions that are to be hooked, as far as its instructions tell where and how.

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Fields of objects are not at their very beginning.
const LEAST_FIELD: u64 = 0x20;
const MOST_FIELD: u64 = 0x4000;
/// Where a goroutine has the bound of its stack.
const STACK_BOUND: u64 = 0x10;
/// So many instructions come before a function of Go's touches its stack.
const PROLOGUE: usize = 6;

fn decode(code: &[u8]) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    std::iter::from_fn(move || decoder.can_decode().then(|| decoder.decode()))
}

/// Where a function's returns are, from its beginning on; nothing if it is no code, or has none.
pub fn returns(code: &[u8]) -> Option<Vec<u64>> {
    let mut found = Vec::new();
    for instruction in decode(code) {
        match instruction.mnemonic() {
            Mnemonic::INVALID => return None,
            Mnemonic::Ret => found.push(instruction.ip()),
            _ => {}
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Where a function of Go's goes on once it has seen that its stack is large enough. Before that it may be begun anew, with a larger
/// one; from there on it runs once a call, and has touched none of its arguments.
pub fn after_stack_check(code: &[u8]) -> Option<u64> {
    let mut begin = decode(code).take(PROLOGUE);
    begin.find(|instruction| {
        matches!(instruction.code(), Code::Cmp_r64_rm64 | Code::Cmp_rm64_r64)
            && instruction.memory_base() == Register::R14
            && instruction.memory_displacement64() == STACK_BOUND
    })?;
    let branch = begin.next()?;
    matches!(branch.code(), Code::Jbe_rel8_64 | Code::Jbe_rel32_64).then(|| branch.next_ip())
}

/// The field of its first argument that a short function is about: what it adds to that pointer most often. From OpenSSL 3.2 on the
/// pointer may be another's first, which a field of the argument or a function gives: in the
/// argument's register, or in that of results.
pub fn field(code: &[u8]) -> Option<u32> {
    let mut seen: HashMap<u64, usize> = HashMap::new();
    for instruction in decode(code) {
        let added = match instruction.mnemonic() {
            Mnemonic::INVALID => break,
            Mnemonic::Add if instruction.op0_register() == Register::RSP => None,
            Mnemonic::Add if instruction.op1_kind() == OpKind::Immediate32to64 => Some(instruction.immediate(1)),
            Mnemonic::Mov if matches!(instruction.op0_register(), Register::RDI | Register::RAX) => None,
            _ if instruction.memory_index() != Register::None => None,
            _ if matches!(instruction.memory_base(), Register::RDI | Register::RAX) => {
                Some(instruction.memory_displacement64())
            }
            _ => None,
        };
        if let Some(added) = added.filter(|added| (LEAST_FIELD..MOST_FIELD).contains(added)) {
            *seen.entry(added).or_default() += 1;
        }
    }
    let most = seen.into_iter().max_by_key(|&(field, times)| (times, std::cmp::Reverse(field)))?;
    u32::try_from(most.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_are_told_from_bytes_that_look_like_them() {
        // mov eax, 0xc3; ret; nop; ret
        assert_eq!(returns(&[0xb8, 0xc3, 0, 0, 0, 0xc3, 0x90, 0xc3]), Some(vec![5, 7]));
        assert_eq!(returns(&[0x90]), None);
        assert_eq!(returns(&[0x06, 0xc3]), None);
    }

    #[test]
    fn functions_of_go_begin_with_a_look_at_the_stack() {
        // cmp rsp, [r14+0x10]; jbe; push rbp
        assert_eq!(after_stack_check(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x20, 0x55]), Some(6));
        // lea r12, [rsp-0x80]; cmp r12, [r14+0x10]; jbe (32 bits)
        let large = [0x4c, 0x8d, 0x64, 0x24, 0x80, 0x4d, 0x3b, 0x66, 0x10, 0x0f, 0x86, 0, 1, 0, 0, 0x55];
        assert_eq!(after_stack_check(&large), Some(15));
        // push rbp; mov rbp, rsp; ret
        assert_eq!(after_stack_check(&[0x55, 0x48, 0x89, 0xe5, 0xc3]), None);
    }

    #[test]
    fn the_field_of_a_getter() {
        // movzx edi, byte [rdi+0x160]; mov [rsi], dil; ret; mov edi, [rdi+0x160]; ret
        let inlined = [0x0f, 0xb6, 0xbf, 0x60, 1, 0, 0, 0x40, 0x88, 0x3e, 0xc3, 0x8b, 0xbf, 0x60, 1, 0, 0, 0xc3];
        assert_eq!(field(&inlined), Some(0x160));
        // lea rsi, [rdi+0x148]; jmp
        assert_eq!(field(&[0x48, 0x8d, 0xb7, 0x48, 1, 0, 0, 0xeb, 0]), Some(0x148));
        // add rdi, 0x178; ret
        assert_eq!(field(&[0x48, 0x81, 0xc7, 0x78, 1, 0, 0, 0xc3]), Some(0x178));
        assert_eq!(field(&[0xc3]), None);
    }

    /// Beginnings of it as they were found: since 3.2 the argument may be a QUIC connection, which has the object in a field.
    #[test]
    fn the_field_of_a_getter_that_asks_for_the_object_first() {
        // OpenSSL 3.4 (gcc): mov rdi, [rdi+0x40]; test rdi, rdi; lea rdx, [rdi+0x140]; mov rax, [rdi+0x140]
        let by_field = [
            0x48, 0x8b, 0x7f, 0x40, 0x48, 0x85, 0xff, 0x48, 0x8d, 0x97, 0x40, 1, 0, 0, 0x48, 0x8b, 0x87, 0x40, 1, 0, 0,
        ];
        assert_eq!(field(&by_field), Some(0x140));
        // OpenSSL 3.5 and 3.6 (gcc): call; mov rdi, rax; lea rcx, [rdi+0x188]; mov rdx, [rdi+0x188]
        let by_call =
            [0xe8, 0, 0, 0, 0, 0x48, 0x89, 0xc7, 0x48, 0x8d, 0x8f, 0x88, 1, 0, 0, 0x48, 0x8b, 0x97, 0x88, 1, 0, 0];
        assert_eq!(field(&by_call), Some(0x188));
        // node 26 (clang): call; add rax, 0x188; mov rdi, rsi; mov rsi, rax; call memcpy; add rsp, 0x100
        let copied = [
            0xe8, 0, 0, 0, 0, 0x48, 0x05, 0x88, 1, 0, 0, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xc6, 0xe8, 0, 0, 0, 0, 0x48,
            0x81, 0xc4, 0, 1, 0, 0,
        ];
        assert_eq!(field(&copied), Some(0x188));
    }
}
