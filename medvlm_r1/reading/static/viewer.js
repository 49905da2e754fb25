// Stands in for the viewer: shows what a browser can show.
export class Viewer {
  constructor(element, texts, announce) {
    this.element = element;
    this.texts = texts;
  }
  async open(file) {
    this.close();
    this.file = file;
    this.header = {};
    const image = document.createElement("img");
    image.alt = this.texts["alt"] ?? "";
    image.src = this.url = URL.createObjectURL(file);
    this.element.replaceChildren(image);
    this.element.hidden = false;
  }
  place() { return {}; }
  mark() {}
  help() { return []; }
  close() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = this.file = this.header = null;
    this.element.replaceChildren();
  }
}
