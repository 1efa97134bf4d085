"""Threads that compute: they leave signals to the main thread."""

import signal

# raised by the thread's own instructions: blocked, they would end the process without faulthandler's report
SYNCHRONOUS = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
    if hasattr(signal, name)
}


def block_signals() -> None:
    """Block signals in this thread and in those that it starts, such as the threads of an engine.

    The kernel may deliver a signal to any thread that does not block it. OpenVINO leaves threads without a valid
    alternate stack (``deploy.signal_stack``), on which Python's handlers would end the process.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - SYNCHRONOUS)
