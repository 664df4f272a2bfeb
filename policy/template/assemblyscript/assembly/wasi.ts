// The three functions of WASI that a policy needs.

@external("wasi_snapshot_preview1", "fd_read")
declare function fd_read(fd: i32, iovs: usize, n: i32, done: usize): i32;

@external("wasi_snapshot_preview1", "fd_write")
declare function fd_write(fd: i32, iovs: usize, n: i32, done: usize): i32;

@external("wasi_snapshot_preview1", "proc_exit")
declare function proc_exit(code: i32): void;

/** Reads standard input, which a policy has at most 1 MiB of. */
export function readAll(): string {
  const most: usize = 1 << 20;
  const to = heap.alloc(most);
  const iov = memory.data(12);
  let len: usize = 0;
  while (len < most) {
    store<usize>(iov, to + len);
    store<usize>(iov, most - len, 4);
    if (fd_read(0, iov, 1, iov + 8) != 0 || load<usize>(iov, 8) == 0) break;
    len += load<usize>(iov, 8);
  }
  return String.UTF8.decodeUnsafe(to, len);
}

/** Writes to standard output (1), or to the builder's owner (2). */
export function write(fd: i32, text: string): void {
  const bytes = String.UTF8.encode(text);
  const iov = memory.data(12);
  store<usize>(iov, changetype<usize>(bytes));
  store<usize>(iov, bytes.byteLength, 4);
  fd_write(fd, iov, 1, iov + 8);
}

/** Ends without a decision, which denies. */
export function fail(message: string): void {
  write(2, message);
  proc_exit(1);
}
