// Reads JSON, just enough for a policy: AssemblyScript has no reader of its own.

export enum Kind { Null, Bool, Number, Text, List, Object }

export class Json {
  truth: bool = false;
  whole: bool = false; // a number from 0 without a fraction
  number: u64 = 0; // of whole numbers; others are 0
  text: string = "";
  items: Json[] = [];
  names: string[] = [];

  constructor(public kind: Kind) {}

  /** The field of an object, Null without one. */
  get(name: string): Json {
    const i = this.names.indexOf(name);
    return i < 0 ? new Json(Kind.Null) : this.items[i];
  }
}

/** A string of JSON. */
export function quote(s: string): string {
  let out = '"';
  for (let i = 0; i < s.length; i++) {
    const c = s.charCodeAt(i);
    if (c == 0x22 || c == 0x5c) out += "\\";
    out += c < 0x20 ? " " : String.fromCharCode(c);
  }
  return out + '"';
}

export function parse(text: string): Json {
  const p = new Parser(text);
  const v = p.value(0);
  p.space();
  assert(p.at == text.length, "more follows the JSON");
  return v;
}

class Parser {
  at: i32 = 0;

  constructor(private s: string) {}

  peek(): i32 { return this.at < this.s.length ? this.s.charCodeAt(this.at) : -1; }

  space(): void {
    for (let c = this.peek(); c == 0x20 || c == 0x0a || c == 0x0d || c == 0x09; c = this.peek()) this.at++;
  }

  take(c: i32): bool {
    this.space();
    const found = this.peek() == c;
    if (found) this.at++;
    return found;
  }

  word(w: string, v: Json): Json {
    assert(this.s.substr(this.at, w.length) == w, "not JSON");
    this.at += w.length;
    return v;
  }

  value(depth: i32): Json {
    assert(depth < 64, "nested too deep");
    this.space();
    const c = this.peek();
    if (c == 0x22) {
      const v = new Json(Kind.Text);
      v.text = this.str();
      return v;
    }
    if (c == 0x5b) { // [
      const v = new Json(Kind.List);
      this.at++;
      while (!this.take(0x5d)) {
        if (v.items.length > 0) assert(this.take(0x2c), "no comma");
        v.items.push(this.value(depth + 1));
      }
      return v;
    }
    if (c == 0x7b) { // {
      const v = new Json(Kind.Object);
      this.at++;
      while (!this.take(0x7d)) {
        if (v.items.length > 0) assert(this.take(0x2c), "no comma");
        this.space();
        v.names.push(this.str());
        assert(this.take(0x3a), "no colon");
        v.items.push(this.value(depth + 1));
      }
      return v;
    }
    if (c == 0x6e) return this.word("null", new Json(Kind.Null));
    if (c == 0x66) return this.word("false", new Json(Kind.Bool));
    if (c == 0x74) {
      const v = new Json(Kind.Bool);
      v.truth = true;
      return this.word("true", v);
    }
    return this.num();
  }

  num(): Json {
    const v = new Json(Kind.Number);
    const from = this.at;
    let whole = true;
    for (let c = this.peek(); (c >= 0x30 && c <= 0x39) || c == 0x2d || c == 0x2b || c == 0x2e || (c | 0x20) == 0x65; c = this.peek()) {
      if (c >= 0x30 && c <= 0x39) v.number = v.number * 10 + (c - 0x30);
      else whole = false;
      this.at++;
    }
    assert(this.at > from, "not JSON");
    if (!whole) v.number = 0;
    v.whole = whole;
    return v;
  }

  str(): string {
    assert(this.peek() == 0x22, "no string");
    this.at++;
    let out = "";
    let from = this.at;
    while (true) {
      const c = this.peek();
      assert(c >= 0, "a string has no end");
      if (c == 0x22 || c == 0x5c) out += this.s.substring(from, this.at);
      this.at++;
      if (c == 0x22) return out;
      if (c != 0x5c) continue;
      const e = this.peek();
      this.at++;
      if (e == 0x75) { // u
        out += String.fromCharCode(<i32>parseInt(this.s.substr(this.at, 4), 16));
        this.at += 4;
      } else {
        const i = "bfnrt".indexOf(String.fromCharCode(e));
        out += i >= 0 ? "\b\f\n\r\t".charAt(i) : String.fromCharCode(e);
      }
      from = this.at;
    }
  }
}
