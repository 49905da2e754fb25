// The server, as the page calls it. The key lives in this module's memory: never in an address, a cookie or a storage.

let authorization = {};

/** From now on; the headers that the viewer sends too. */
export const setKey = (key) => (authorization = key ? { Authorization: `Bearer ${key}` } : {});

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export async function call(path, { body, type = "application/json" } = {}) {
  const headers = { ...authorization };
  if (body !== undefined) headers["Content-Type"] = type;
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body, cache: "no-store", credentials: "omit" });
  } catch {
    throw new Refused(0, "");
  }
  if (!response.ok) throw new Refused(response.status, await why(response));
  return response;
}

async function why(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}

export const get = async (path) => (await call(path)).json();
export const post = async (path, values) => (await call(path, { body: JSON.stringify(values) })).json();
export const blob = async (path) => (await call(path)).blob();

/** The data of server-sent events, one after the other. Throws Refused for an error among them, and for a stream that breaks off. */
export async function* events(path) {
  const reader = (await call(path)).body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  while (true) {
    let part;
    try {
      part = await reader.read();
    } catch {
      throw new Refused(0, "");
    }
    if (part.done) return;
    waiting += part.value;
    const whole = waiting.split("\n\n");
    waiting = whole.pop();
    for (const one of whole) {
      const data = JSON.parse(one.replace(/^data: /, ""));
      if (data.error) throw new Refused(500, data.error.message);
      yield data;
    }
  }
}

export function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.replace(/^data:[^,]*,/, "data:application/octet-stream;base64,"));
    reader.onerror = () => reject(new Refused(0, ""));
    reader.readAsDataURL(file);
  });
}
