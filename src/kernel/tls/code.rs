//! Machine code of functions that are to be hooked, as far as its instructions tell where and how.

use std::collections::{BTreeSet, HashMap};

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Fields of objects are not at their very beginning.
const LEAST_FIELD: u64 = 0x20;
const MOST_FIELD: u64 = 0x4000;
/// Where a goroutine has the bound of its stack.
const STACK_BOUND: u64 = 0x10;
/// So many instructions come before a function of Go's touches its stack.
const PROLOGUE: usize = 6;

/// `lea rcx, [rip + distance]` without the distance: the fourth argument of `ERR_put_error`.
pub const NAME_AS_ARGUMENT: &[u8] = &[0x48, 0x8d, 0x0d];
/// `call` and `jmp` with a distance of four bytes.
pub const CALL: u8 = 0xe8;
pub const JUMP: u8 = 0xe9;
/// How instructions of two bytes begin, and how conditional branches with a distance of four bytes go on.
pub const TWO_BYTES: u8 = 0x0f;
pub const BRANCHES: std::ops::RangeInclusive<u8> = 0x80..=0x8f;
/// BoringSSL's number of its part for TLS (`ERR_LIB_SSL`).
const LIBRARY: u32 = 16;
/// The size of a random number of TLS, in bytes.
pub const RANDOM: u32 = 32;
/// No function is longer that gives one to its caller.
const MOST_GETTER: usize = 256;

fn decode(code: &[u8]) -> impl Iterator<Item = Instruction> {
    decode_at(code, 0)
}

fn decode_at(code: &[u8], address: u64) -> impl Iterator<Item = Instruction> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
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

/// The arguments of a call of BoringSSL's `ERR_put_error`, as far as they have been seen.
#[derive(Default)]
struct Complaint {
    library: Option<u32>,
    reason: Option<u32>,
    source: bool,
}

impl Complaint {
    /// Goes on by an instruction. Returns the reason at a call about the source.
    fn next(&mut self, instruction: &Instruction, source: &BTreeSet<u64>) -> Option<u32> {
        match (instruction.code(), instruction.op0_register()) {
            (Code::Mov_r32_imm32, Register::EDI) => self.library = Some(instruction.immediate32()),
            (Code::Mov_r32_imm32, Register::EDX) => self.reason = Some(instruction.immediate32()),
            (Code::Lea_r64_m, Register::RCX) if instruction.is_ip_rel_memory_operand() => {
                self.source = source.contains(&instruction.ip_rel_memory_address());
            }
            _ => {}
        }
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::ConditionalBranch => None,
            control => {
                let over = std::mem::take(self);
                let made = control == FlowControl::Call && over.source && over.library == Some(LIBRARY);
                over.reason.filter(|_| made)
            }
        }
    }
}

/// The reasons that a function at an address reports errors of a source with, whose name is at one of these.
pub fn errors(code: &[u8], address: u64, source: &BTreeSet<u64>) -> BTreeSet<u32> {
    let mut complaint = Complaint::default();
    decode_at(code, address).filter_map(|instruction| complaint.next(&instruction, source)).collect()
}

/// The reason that a function at an address reports and returns 0 for, with nothing else done, if its second argument is null;
/// nothing if it is none that begins with that question.
pub fn fails_without_second(code: &[u8], address: u64, source: &BTreeSet<u64>) -> Option<u32> {
    let mut begin = decode_at(code, address);
    let asks = begin.find(|it| !matches!(it.mnemonic(), Mnemonic::Push | Mnemonic::Sub | Mnemonic::Endbr64))?;
    let branch = begin.next()?;
    let second = asks.mnemonic() == Mnemonic::Test && [asks.op0_register(), asks.op1_register()] == [Register::RSI; 2];
    if !second || branch.mnemonic() != Mnemonic::Je {
        return None;
    }
    let into = usize::try_from(branch.near_branch_target().checked_sub(address)?).ok()?;
    let (mut complaint, mut reason, mut zero) = (Complaint::default(), None, false);
    for instruction in decode_at(code.get(into..)?, branch.near_branch_target()) {
        let said = complaint.next(&instruction, source);
        let to = instruction.op0_register();
        match instruction.mnemonic() {
            Mnemonic::Call if reason.is_none() && said.is_some() => reason = said,
            Mnemonic::Xor if to == instruction.op1_register() => zero |= reason.is_some() && to == Register::EAX,
            Mnemonic::Sub | Mnemonic::Add if to == Register::RSP => {}
            Mnemonic::Mov if instruction.op0_kind() == OpKind::Register && to != Register::EAX => {}
            Mnemonic::Lea | Mnemonic::Push | Mnemonic::Pop => {}
            Mnemonic::Ret if zero => return reason,
            _ => return None,
        }
    }
    None
}

/// What a function at an address calls.
pub fn calls(code: &[u8], address: u64) -> BTreeSet<u64> {
    let calls = decode_at(code, address).filter(|it| it.code() == Code::Call_rel32_64);
    calls.map(|it| it.near_branch_target()).collect()
}

/// For a function that copies a random number to its caller, from a field of an object that a field of its argument has: the
/// two fields.
pub fn random_getter(code: &[u8]) -> Option<(u32, u32)> {
    if code.len() > MOST_GETTER {
        return None;
    }
    let instructions: Vec<Instruction> = decode(code).take_while(|it| it.mnemonic() != Mnemonic::INVALID).collect();
    let with_size = |mnemonic| {
        instructions.iter().any(|it| it.mnemonic() == mnemonic && it.try_immediate(1).ok() == Some(u64::from(RANDOM)))
    };
    if !with_size(Mnemonic::Mov) || !with_size(Mnemonic::Cmp) {
        return None;
    }
    let mut rest = instructions.iter().skip_while(|it| it.memory_base() != Register::RDI);
    let load = rest.next().filter(|it| it.code() == Code::Mov_r64_rm64)?;
    let field = rest.find(|it| it.memory_base() == load.op0_register())?;
    let place = |it: &Instruction| {
        let displacement = it.memory_displacement64();
        u32::try_from(displacement).ok().filter(|it| u64::from(*it) < MOST_FIELD && *it > 0)
    };
    Some((place(load)?, place(field)?))
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

    /// `SSL_use_PrivateKey` of grpcio 1.85.1, and where it is there.
    const USES_KEY: [u8; 73] = [
        0x48, 0x85, 0xf6, 0x74, 0x1b, 0x48, 0x8b, 0x47, 8, 0x48, 0x85, 0xc0, 0x74, 0x12, 0x48, 0x8b, 0x40, 0x20, 0x48,
        0x8b, 0x78, 0x18, 0xe9, 0x55, 4, 0xff, 0xff, 0x0f, 0x1f, 0x44, 0, 0, 0x48, 0x83, 0xec, 8, 0xba, 0x43, 0, 0, 0,
        0x31, 0xf6, 0xbf, 0x10, 0, 0, 0, 0x41, 0xb8, 0x92, 1, 0, 0, 0x48, 0x8d, 0x0d, 0x93, 0xba, 0x26, 0, 0xe8, 0x4e,
        0xd0, 0xe9, 0xff, 0x31, 0xc0, 0x48, 0x83, 0xc4, 8, 0xc3,
    ];
    const AT: u64 = 0x00bb_d0c0;
    /// Where the name of its source file is.
    const NAME: u64 = AT + 0x3d + 0x0026_ba93;

    #[test]
    fn errors_are_known_by_their_source() {
        assert_eq!(errors(&USES_KEY, AT, &BTreeSet::from([NAME])), BTreeSet::from([67]));
        assert_eq!(errors(&USES_KEY, AT, &BTreeSet::from([NAME + 1])), BTreeSet::new());
        // the number of another library
        let mut other = USES_KEY;
        other[44] = 0x11;
        assert_eq!(errors(&other, AT, &BTreeSet::from([NAME])), BTreeSet::new());
    }

    #[test]
    fn a_function_that_fails_without_its_second_argument() {
        let source = BTreeSet::from([NAME]);
        assert_eq!(fails_without_second(&USES_KEY, AT, &source), Some(67));
        let with = |at: usize, byte: u8| {
            let mut code = USES_KEY;
            code[at] = byte;
            fails_without_second(&code, AT, &source)
        };
        assert_eq!(with(2, 0xff), None, "test edi, edi");
        assert_eq!(with(3, 0x75), None, "jne");
        assert_eq!(with(67, 0xdb), None, "xor ebx, ebx");
        assert_eq!(fails_without_second(&USES_KEY[..72], AT, &source), None, "no return");
    }

    #[test]
    fn what_a_function_calls() {
        let into = (AT + 0x42).wrapping_sub(0x0016_2fb2);
        assert_eq!(calls(&USES_KEY, AT), BTreeSet::from([into]));
    }

    #[test]
    fn the_fields_of_a_getter_of_boringssl() {
        // The beginning of SSL_get_client_random of grpcio 1.85.1:
        // mov eax, 32; test rdx, rdx; je; cmp rdx, 32; mov rdi, [rdi+0x30]; cmovb rax, rdx; lea rcx, [rdi+0x30]; ...
        let mut code = [
            0xb8, 0x20, 0, 0, 0, 0x48, 0x85, 0xd2, 0x74, 0x5c, 0x48, 0x83, 0xfa, 0x20, 0x48, 0x8b, 0x7f, 0x30, 0x48,
            0x0f, 0x42, 0xc2, 0x48, 0x8d, 0x4f, 0x30, 0x89, 0xc2, 0x83, 0xf8, 8, 0x72, 0x4f,
        ];
        assert_eq!(random_getter(&code), Some((0x30, 0x30)));
        code[25] = 0x10;
        assert_eq!(random_getter(&code), Some((0x30, 0x10)));
        code[13] = 0x21;
        assert_eq!(random_getter(&code), None);
        assert_eq!(random_getter(&[0xc3]), None);
    }
}
