"""How a command line ends: its exit code, and one line on stderr for what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable

#: Errors that are the input's: one line and exit code 2. Anything else is a bug and shows its traceback.
USER_ERRORS = (ValueError, NotImplementedError, OSError, RuntimeError, MemoryError)


def exit_code(
    run: Callable[[], int],
    *,
    name: str,
    interrupted: str = "interrupted",
    no_memory: str = "not enough memory",
    words: Callable[[str], str] = str,
) -> int:
    """What ``run`` returns; 2 for input that cannot be used, with one line on stderr; 130 after Ctrl-C.

    ``name`` begins the line; ``interrupted`` and ``no_memory`` are its words after Ctrl-C and a MemoryError.
    ``words`` puts every other message into those of the command.
    """
    try:
        return run()
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return 130
    except MemoryError:
        message = no_memory
    except OSError as error:
        named = error.filename is not None and error.strerror
        message = f"{error.filename}: {error.strerror}" if named else str(error)
    except USER_ERRORS as error:
        message = str(error)
    except ArithmeticError as error:
        message = f"numbers of this problem are too large or too small ({error}); change its units"
    print(f"{name}: error: {words(' '.join(message.split()))}", file=sys.stderr)
    return 2
