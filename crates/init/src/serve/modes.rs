//! Terminal modes as SSH encodes them, put into a terminal's settings.
//!
//! The opcodes are those of RFC 4254, section 8, and of RFC 8160 (`IUTF8`). What Linux has no word for is ignored, as is what no
//! standard has given a meaning. Size of characters and parity are known here, but the kernel lets no pseudo-terminal change them.

use rustix::termios::{ControlModes, InputModes, LocalModes, OutputModes, SpecialCodeIndex, Termios};

/// Modes that are looked at; the rest is ignored.
const MODES_MAX: usize = 256;

/// The argument of a control character that says there is none.
const NO_CHARACTER: u32 = 255;

/// What an opcode speaks of.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// A control character.
    Character(SpecialCodeIndex),
    /// A flag, set by any argument but 0.
    Input(InputModes),
    Output(OutputModes),
    Control(ControlModes),
    Local(LocalModes),
    /// A size of characters, chosen by any argument but 0.
    Size(ControlModes),
    InputSpeed,
    OutputSpeed,
}

/// The meaning of `opcode`.
fn mode(opcode: u8) -> Option<Mode> {
    use Mode::{Character, Control, Input, InputSpeed, Local, Output, OutputSpeed, Size};
    Some(match opcode {
        1 => Character(SpecialCodeIndex::VINTR),
        2 => Character(SpecialCodeIndex::VQUIT),
        3 => Character(SpecialCodeIndex::VERASE),
        4 => Character(SpecialCodeIndex::VKILL),
        5 => Character(SpecialCodeIndex::VEOF),
        6 => Character(SpecialCodeIndex::VEOL),
        7 => Character(SpecialCodeIndex::VEOL2),
        8 => Character(SpecialCodeIndex::VSTART),
        9 => Character(SpecialCodeIndex::VSTOP),
        10 => Character(SpecialCodeIndex::VSUSP),
        12 => Character(SpecialCodeIndex::VREPRINT),
        13 => Character(SpecialCodeIndex::VWERASE),
        14 => Character(SpecialCodeIndex::VLNEXT),
        16 => Character(SpecialCodeIndex::VSWTC),
        18 => Character(SpecialCodeIndex::VDISCARD),
        30 => Input(InputModes::IGNPAR),
        31 => Input(InputModes::PARMRK),
        32 => Input(InputModes::INPCK),
        33 => Input(InputModes::ISTRIP),
        34 => Input(InputModes::INLCR),
        35 => Input(InputModes::IGNCR),
        36 => Input(InputModes::ICRNL),
        37 => Input(InputModes::IUCLC),
        38 => Input(InputModes::IXON),
        39 => Input(InputModes::IXANY),
        40 => Input(InputModes::IXOFF),
        41 => Input(InputModes::IMAXBEL),
        42 => Input(InputModes::IUTF8),
        50 => Local(LocalModes::ISIG),
        51 => Local(LocalModes::ICANON),
        52 => Local(LocalModes::XCASE),
        53 => Local(LocalModes::ECHO),
        54 => Local(LocalModes::ECHOE),
        55 => Local(LocalModes::ECHOK),
        56 => Local(LocalModes::ECHONL),
        57 => Local(LocalModes::NOFLSH),
        58 => Local(LocalModes::TOSTOP),
        59 => Local(LocalModes::IEXTEN),
        60 => Local(LocalModes::ECHOCTL),
        61 => Local(LocalModes::ECHOKE),
        62 => Local(LocalModes::PENDIN),
        70 => Output(OutputModes::OPOST),
        71 => Output(OutputModes::OLCUC),
        72 => Output(OutputModes::ONLCR),
        73 => Output(OutputModes::OCRNL),
        74 => Output(OutputModes::ONOCR),
        75 => Output(OutputModes::ONLRET),
        90 => Size(ControlModes::CS7),
        91 => Size(ControlModes::CS8),
        92 => Control(ControlModes::PARENB),
        93 => Control(ControlModes::PARODD),
        128 => InputSpeed,
        129 => OutputSpeed,
        _ => return None,
    })
}

/// Changes `settings` as `modes` say, the later ones winning.
pub fn apply(settings: &mut Termios, modes: &[(u8, u32)]) {
    for (opcode, argument) in modes.iter().take(MODES_MAX) {
        let (argument, on) = (*argument, *argument != 0);
        match mode(*opcode) {
            Some(Mode::Character(index)) => match u8::try_from(argument) {
                // 0 is how Linux says that there is none.
                Ok(_) if argument == NO_CHARACTER => settings.special_codes[index] = 0,
                Ok(character) => settings.special_codes[index] = character,
                Err(_) => {}
            },
            Some(Mode::Input(flag)) => settings.input_modes.set(flag, on),
            Some(Mode::Output(flag)) => settings.output_modes.set(flag, on),
            Some(Mode::Control(flag)) => settings.control_modes.set(flag, on),
            Some(Mode::Local(flag)) => settings.local_modes.set(flag, on),
            Some(Mode::Size(size)) if on => {
                settings.control_modes.remove(ControlModes::CSIZE);
                settings.control_modes.insert(size);
            }
            // A speed of 0 would mean to hang up, and one that the kernel cannot express is as good as unknown.
            Some(Mode::InputSpeed) if on => drop(settings.set_input_speed(argument)),
            Some(Mode::OutputSpeed) if on => drop(settings.set_output_speed(argument)),
            Some(Mode::Size(_) | Mode::InputSpeed | Mode::OutputSpeed) | None => {}
        }
    }
}
