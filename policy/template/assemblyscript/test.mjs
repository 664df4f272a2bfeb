// Runs policy.wasm in Node as a builder would.
import assert from "node:assert";
import { readFileSync, mkdtempSync, openSync, closeSync, writeFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WASI } from "node:wasi";

const module = new WebAssembly.Module(readFileSync(new URL("policy.wasm", import.meta.url)));

function decide(request) {
  const dir = mkdtempSync(join(tmpdir(), "policy-"));
  const [input, output] = [join(dir, "in"), join(dir, "out")];
  writeFileSync(input, typeof request === "string" ? request : JSON.stringify(request));
  const [stdin, stdout] = [openSync(input, "r"), openSync(output, "w")];
  try {
    const wasi = new WASI({ version: "preview1", stdin, stdout, returnOnExit: true });
    const instance = new WebAssembly.Instance(module, wasi.getImportObject());
    const code = wasi.start(instance);
    return code ? { code } : JSON.parse(readFileSync(output, "utf8"));
  } finally {
    closeSync(stdin);
    closeSync(stdout);
    rmSync(dir, { recursive: true });
  }
}

const ask = (settings, name) => decide({
  ticket: { limits: { max_build_seconds: 1800 } }, settings,
  request: { roots: [{ name }], roots_truncated: false, to_build: [], to_build_truncated: false },
});

test("allows what matches", () => {
  assert.equal(ask({ allow: ["hello-*"] }, "hello-2.12").decision, "allow");
  assert.equal(ask({ allow: ["x", "h?llo*2"] }, "hello-2.12").decision, "allow");
});

test("denies the rest", () => {
  assert.match(ask({ allow: ["hello-*"] }, 'fire"fox\u00e9').reason, /fire"foxé is not allowed/);
  assert.match(ask({}, "hello").reason, /no list/);
  assert.equal(decide("{").code, 1);
});

test("denies where a setting is no number", () => {
  for (const wrong of ["60", 0.5, -1, [60]]) {
    assert.match(ask({ allow: ["*"], max_build_seconds: wrong }, "hello").reason, /no whole number/);
  }
});

test("narrows", () => {
  assert.deepEqual(ask({ allow: ["*"], max_build_seconds: 60 }, "hello").limits, { max_build_seconds: 60 });
});
